"""Environment -> Settings, once. Every problem is reported at a time, in one ConfigError.

docs/configuration.md has one row for each of ROWS; a test compares the two.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from exporter.errors import ConfigError
from exporter.klaviyo.base_url import BASE_URL, REVISION, parse_base_url, parse_revision


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How this deployment is set up. Holds no secret: the Klaviyo keys are in the vault."""

    klaviyo_base_url: str
    klaviyo_revision: str
    key_vault_url: str
    snapshots_container: str
    state_container: str
    steps_queue: str
    settle_seconds: float
    patience_seconds: float
    step_seconds: float
    klaviyo_share: float
    memory_mb: int
    runs_kept_days: int
    rejected_kept_days: int
    no_snapshot_days: int
    notice_webhook_secret: str
    trust_platform_identity: bool
    work_folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One setting: its environment variable, its default (None: must be set), how it is read, what it means."""

    name: str
    default: str | None
    parse: Callable[[str], Any]
    meaning: str


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("https", "http") or not parts.netloc:
        raise ValueError("must be an address such as https://example.com")
    return text.rstrip("/")


def _flag(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("must be true or false")
    return text.lower() == "true"


def _container(text: str) -> str:
    # Microsoft, "Naming and Referencing Containers, Blobs, and Metadata" and "Naming Queues and Metadata".
    if not (3 <= len(text) <= 63 and re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", text)):
        raise ValueError(
            "must be a container's or queue's name: 3 to 63 of a-z, 0-9 and single hyphens, with none at either end"
        )
    return text


def _secret_name(text: str) -> str:
    # Imported late: what it brings along takes a quarter of a second, which a cold start need not wait for.
    from exporter.definitions.connection import VAULT_NAME_PATTERN

    if text and not re.fullmatch(VAULT_NAME_PATTERN, text):
        raise ValueError(
            "must be a secret's name, not what it holds: 1 to 127 letters, digits and hyphens"
        )
    return text


def _between(low: float, high: float, kind: Callable[[str], Any] = float) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise ValueError("must be a number") from None
        if not low <= value <= high:
            raise ValueError(f"must be from {low:g} to {high:g}")
        return value

    return parse


ROWS = (
    Row(
        name="KEY_VAULT_URL",
        default=None,
        parse=_url,
        meaning="The vault that holds the Klaviyo keys.",
    ),
    Row(
        name="SNAPSHOTS_CONTAINER",
        default="segments",
        parse=_container,
        meaning="The container into which Customer Insights writes.",
    ),
    Row(
        name="STATE_CONTAINER",
        default="exporter-state",
        parse=_container,
        meaning="Where connections, exports and runs are kept.",
    ),
    Row(
        name="STEPS_QUEUE",
        default="export-steps",
        parse=_container,
        meaning="The queue that carries the work.",
    ),
    Row(
        name="SETTLE_SECONDS",
        default="120",
        parse=_between(0, 3600),
        meaning="A snapshot's folder counts as complete when nothing in it changed for so long.",
    ),
    Row(
        name="PATIENCE_SECONDS",
        default="3600",
        parse=_between(0, 86_400),
        meaning="How long partitions that model.json names are waited for before the run fails.",
    ),
    Row(
        name="STEP_SECONDS",
        default="480",
        parse=_between(1, 1500),
        meaning="A step of a run ends itself after this. More than 480 needs a functionTimeout in host.json of four "
        "times as much, since planning may last three times as long.",
    ),
    Row(
        name="KLAVIYO_SHARE",
        default="1",
        parse=_between(0.01, 1),
        meaning="The part of Klaviyo's limits that runs may use; lower it when other tools use the account.",
    ),
    Row(
        name="MEMORY_MB",
        default="96",
        parse=_between(64, 4096, int),
        meaning="DuckDB's memory; rows beyond it go to disk, but each mapped column takes about 1 MB. The process "
        "needs about 120 MB more. The templates set a quarter of an instance's memory.",
    ),
    Row(
        name="RUNS_KEPT_DAYS",
        default="365",
        parse=_between(1, 3650, int),
        meaning="A run goes, report and all, so long after it ended; the newest of an export stays.",
    ),
    Row(
        name="REJECTED_KEPT_DAYS",
        default="30",
        parse=_between(1, 3650, int),
        meaning="A run's rejected.csv, which holds personal data, and duplicates.csv go so long after it ended.",
    ),
    Row(
        name="NO_SNAPSHOT_DAYS",
        default="8",
        parse=_between(0, 365, int),
        meaning="A segment of an active export without a new snapshot for so long raises a notice; 0 for never.",
    ),
    Row(
        name="NOTICE_WEBHOOK_SECRET",
        default="",
        parse=_secret_name,
        meaning="The secret in the vault that holds the https address which notices are posted to (Teams, Slack).",
    ),
    Row(
        name="TRUST_PLATFORM_IDENTITY",
        default="false",
        parse=_flag,
        meaning="Whether people are who App Service authentication says, where it is on; else the API refuses all.",
    ),
    Row(
        name="WORK_FOLDER",
        default=str(
            Path(tempfile.gettempdir()) / f"segment-exporter-{getattr(os, 'getuid', str)()}"
        ),  # one a user
        parse=Path,
        meaning="Local disk for the plans of open runs, closed to other users.",
    ),
    Row(
        name="KLAVIYO_BASE_URL",
        default=BASE_URL,
        parse=parse_base_url,
        meaning="Klaviyo's API; another address only in tests.",
    ),
    Row(
        name="KLAVIYO_REVISION",
        default=REVISION,
        parse=parse_revision,
        meaning="The dated API revision that is spoken; Klaviyo serves each for two years.",
    ),
)


def setting(name: str, environ: Mapping[str, str]) -> Any:
    """One setting that has a default, checked. Raises ConfigError."""
    [row] = [row for row in ROWS if row.name == name]
    try:
        return row.parse(environ.get(name) or row.default or "")
    except ValueError as exc:
        raise ConfigError(
            f"{name} {exc}", hint="Correct it; docs/configuration.md explains it."
        ) from exc


def from_env(environ: Mapping[str, str]) -> Settings:
    """Read and check every setting. Raises ConfigError with all problems."""
    values: dict[str, Any] = {}
    problems = []
    for row in ROWS:
        text = environ.get(row.name) or row.default
        if text is None:
            problems.append(f"{row.name} is not set")
            continue
        try:
            values[row.name.lower()] = row.parse(text)
        except ValueError as exc:
            problems.append(f"{row.name} {exc}")
    if problems:
        raise ConfigError(
            "; ".join(problems),
            hint="Correct these app settings; docs/configuration.md explains each.",
        )
    return Settings(**values)
