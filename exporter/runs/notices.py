"""Notices.

What a person should hear of without looking, posted to a webhook of Teams, Slack or others of their
kind.

    notices/{export}/{about}.json    one notice: what it says, and whether it was delivered
    outbox/{export}/{about}.json     an index of those that were not delivered yet

A notice is recorded first and posted by the timer, so that it survives crashes and a webhook that
is down. It is posted again only when the answer got lost. It holds names, numbers and the run's own
words: no row, no address of a person, no key. Nothing here changes a run.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Literal
from urllib.parse import urlsplit

import requests
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from exporter.errors import AlreadyThere, ConfigError, ExporterError, StoreMoved, Transient
from exporter.runs.run import Run
from exporter.storage.protocols import Store

logger = logging.getLogger(__name__)

TIMEOUT_S = (5.0, 10.0)  # to connect, to answer
FIRST_WAIT_S, LONGEST_WAIT_S = 60.0, 3600.0  # between tries; the first is over by the next tick
GIVE_UP_AFTER = timedelta(days=7)
MOST_IN_A_TICK = 50
# Characters of one text. Teams refuses a message of more than about 28 KB (Microsoft, connector
# reference of "Microsoft Teams" and "Create an Incoming Webhook", read 2026-11-28). It has been
# seen to count two bytes for each character of the JSON, where one of ours may become six.
LONGEST_TEXT = 900
TOO_MANY_REQUESTS = 429
KEY_CAUSES = ("KeyRefused", "ScopeMissing")
TITLES = {
    "failed": "Run failed",
    "key": "Klaviyo refused the key",
    "quiet": "No new snapshot",
}


class Notice(BaseModel):
    """One notice. `about` names it within its export, the same however often it is raised."""

    model_config = ConfigDict(populate_by_name=True)

    schema_: int = Field(default=1, alias="schema")
    kind: Literal["failed", "key", "quiet"]
    export: str
    export_name: str
    about: str
    run: str = ""
    status: str = ""
    message: str
    hint: str
    created_at: datetime
    tries: int = 0
    next_try_at: datetime | None = None
    sent_at: datetime | None = None
    given_up: bool = False

    @property
    def is_pending(self) -> bool:
        return self.sent_at is None and not self.given_up

    def facts(self) -> list[tuple[str, str]]:
        """What it says, as (label, text); of a long text the beginning."""
        named = [
            ("Export", self.export_name),
            ("Run", self.run),
            ("Status", self.status),
            ("What", self.message),
            ("Do", self.hint),
        ]
        return [(label, _cut(text)) for label, text in named if text]


def of_run(run: Run, *, now: datetime) -> Notice:
    """The notice of a failed run."""
    return Notice(
        kind="key" if run.cause in KEY_CAUSES else "failed",
        export=run.export,
        export_name=run.export_name,
        about=run.run_id.rpartition("/")[2],
        run=run.run_id,
        status=str(run.status),
        message=run.message,
        hint=run.hint,
        created_at=now,
    )


class Notices:
    """The notices of a store.

    Without `send` none are raised. `send` raises ExporterError where it cannot deliver.
    """

    def __init__(self, store: Store, send: Callable[[Notice], None] | None) -> None:
        self._store, self._send = store, send

    def add(self, notice: Notice) -> None:
        """Record a notice to be sent; one that was raised before is left as it is."""
        if self._send is None:
            return
        with contextlib.suppress(AlreadyThere):
            self._store.create(_name(notice.export, notice.about), _encode(notice))
        # Also for one that was there: whoever wrote it may have died before this line.
        with contextlib.suppress(AlreadyThere):
            self._store.create(_entry(notice.export, notice.about), b"{}")

    def deliver(self, now: datetime) -> None:
        """Post what is pending and due.

        When the webhook cannot be reached, the rest waits for the next tick.
        """
        if self._send is None:
            return
        tried = 0
        for entry in self._store.names("outbox/"):
            if tried == MOST_IN_A_TICK:
                return
            name = "notices/" + entry.removeprefix("outbox/")
            found = self._read(name)
            if found is None or not found[0].is_pending:
                self._store.delete(entry)
                continue
            notice, etag = found
            if notice.next_try_at and notice.next_try_at > now:
                continue
            tried += 1
            try:
                self._deliver(name, entry, notice, etag, now)
            except StoreMoved:
                continue  # another instance is at it
            except Transient as exc:
                logger.warning(
                    "notice not delivered", extra={"run_id": notice.run, "cause": exc.message}
                )
                return

    def _deliver(self, name: str, entry: str, notice: Notice, etag: str, now: datetime) -> None:
        """One try.

        The next one is put off before it is made, so that two instances do not make it both.
        """
        assert self._send is not None
        wait_s = min(FIRST_WAIT_S * 2**notice.tries, LONGEST_WAIT_S)
        tries = {"tries": notice.tries + 1, "next_try_at": now + timedelta(seconds=wait_s)}
        notice = notice.model_copy(update=tries)
        etag = self._store.replace(name, _encode(notice), etag=etag)
        try:
            self._send(notice)
        except ExporterError as exc:
            if now - notice.created_at > GIVE_UP_AFTER:
                logger.error("notice given up", extra={"run_id": notice.run, "cause": exc.message})
                self._store.replace(
                    name, _encode(notice.model_copy(update={"given_up": True})), etag=etag
                )
                self._store.delete(entry)
            elif isinstance(exc, Transient):
                raise
            else:
                logger.error(
                    "notice not delivered", extra={"run_id": notice.run, "cause": exc.message}
                )
            return
        self._store.replace(name, _encode(notice.model_copy(update={"sent_at": now})), etag=etag)
        self._store.delete(entry)
        logger.info("notice delivered", extra={"run_id": notice.run, "attempt": notice.tries})

    def remove(self, export_id: str, about: str) -> None:
        """Remove a notice: what it is about is gone. Absent is fine."""
        self._store.delete(_entry(export_id, about))
        self._store.delete(_name(export_id, about))

    def abouts(self, export_id: str) -> list[str]:
        """The notices of an export, delivered or not."""
        prefix = f"notices/{export_id}/"
        return [
            name.removeprefix(prefix).removesuffix(".json") for name in self._store.names(prefix)
        ]

    def _read(self, name: str) -> tuple[Notice, str] | None:
        found = self._store.read(name)
        if found is None:
            return None
        try:
            return Notice.model_validate_json(found.data), found.etag
        except ValidationError:
            logger.error("notice unreadable", extra={"cause": name})
            return None


class Webhook:
    """Posts notices to the address that a secret holds.

    Who knows it may write there, so it is read and not kept.
    """

    def __init__(
        self,
        read_address: Callable[[], SecretStr],
        *,
        timeout_s: tuple[float, float] = TIMEOUT_S,
    ) -> None:
        """timeout_s: to connect, to answer."""
        self._read_address, self._timeout_s = read_address, timeout_s

    def __call__(self, notice: Notice) -> None:
        """Raises Transient where trying again may help, else ConfigError.

        Neither quotes the address.
        """
        address = self._read_address().get_secret_value().strip()
        host = _https_host(address)
        body = slack_message(notice) if _is_slack(host) else teams_message(notice)
        try:
            with requests.post(
                address, json=body, timeout=self._timeout_s, allow_redirects=False, stream=True
            ) as answer:
                status = answer.status_code
        except requests.RequestException as exc:
            raise Transient(
                f"the webhook for notices cannot be reached: {type(exc).__name__}"
            ) from None
        if status == TOO_MANY_REQUESTS or status >= 500:
            raise Transient(f"the webhook for notices answered {status}")
        if not 200 <= status < 300:
            raise ConfigError(
                f"the webhook for notices answered {status}",
                hint="Store the webhook's current address in the secret that "
                "NOTICE_WEBHOOK_SECRET names.",
            )


def _https_host(address: str) -> str:
    """The host of an address that notices may go to. Raises ConfigError."""
    try:
        parts = urlsplit(address)
        host = parts.hostname if parts.scheme == "https" else None
    except ValueError:
        host = None
    if not host:
        raise ConfigError(
            "the secret that NOTICE_WEBHOOK_SECRET names holds no https address",
            hint="Store the webhook's whole address there, beginning with https://.",
        )
    return host


def _is_slack(host: str) -> bool:
    return host.endswith((".slack.com", ".slack-gov.com"))


def slack_message(notice: Notice) -> dict[str, Any]:
    """As Slack's incoming webhooks take it, which escape three characters."""

    def escaped(text: str) -> str:
        return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

    lines = [f"{label}: {escaped(text)}" for label, text in notice.facts()]
    return {"text": "\n".join([f"*{TITLES[notice.kind]}*", *lines])}


def teams_message(notice: Notice) -> dict[str, Any]:
    """As Teams' Workflows take it ("when a Teams webhook request is received"): one Adaptive Card.

    RichTextBlock, because TextBlock would read Markdown, links included, out of names that people
    gave.
    """
    lines = [
        {
            "type": "RichTextBlock",
            "inlines": [
                {"type": "TextRun", "text": f"{label}: ", "weight": "Bolder"},
                {"type": "TextRun", "text": text},
            ],
        }
        for label, text in notice.facts()
    ]
    title = {
        "type": "TextBlock",
        "text": TITLES[notice.kind],
        "size": "Large",
        "weight": "Bolder",
        "wrap": True,
    }
    card = {
        "type": "AdaptiveCard",
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "version": "1.4",
        "body": [title, *lines],
    }
    content = {
        "contentType": "application/vnd.microsoft.card.adaptive",
        "contentUrl": None,
        "content": card,
    }
    return {"type": "message", "attachments": [content]}


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def _name(export_id: str, about: str) -> str:
    return f"notices/{export_id}/{about}.json"


def _entry(export_id: str, about: str) -> str:
    return f"outbox/{export_id}/{about}.json"


def _encode(notice: Notice) -> bytes:
    return notice.model_dump_json(by_alias=True).encode()
