"""Whatever Klaviyo answers, nothing personal and nothing secret gets out."""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from exporter.errors import (
    BatchRefused,
    ExporterError,
)
from exporter.klaviyo.backoff import Unavailable
from exporter.klaviyo.client import Klaviyo
from exporter.klaviyo.statuses import STATUSES
from tests.klaviyo.scripted import ADDRESS, KEY, LIST, PHONE, ROW, Scripted, batch, refusal

PRIVATE = [
    KEY,
    ADDRESS,
    ADDRESS.upper(),
    ADDRESS.replace("@", "%40"),
    quote(ADDRESS),
    f"mailto:{ADDRESS}",
    PHONE,
    PHONE[1:],
]


PRIVATE += ["+1 500 555 0006", "(500) 555-0006", "500.555.0006"]


@contextlib.contextmanager
def everything_logged() -> Iterator[list[str]]:
    """The text of every log record of every logger, DEBUG included, with all of its fields."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(f"{record.getMessage()} {record.__dict__}")

    root, handler = logging.getLogger(), Keep()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        root.setLevel(level)
        root.removeHandler(handler)


def everything_about(error: BaseException | None) -> str:
    """Its text, fields and traceback, and those of everything it is chained to, shown or not."""
    if error is None:
        return ""
    lines = [str(error), repr(error), repr(vars(error)), *traceback.format_exception(error)]
    return "\n".join(lines) + everything_about(error.__cause__ or error.__context__)


words = st.text(max_size=20) | st.sampled_from(["", " ", '"', "'", "<", ".", ", ", "Invalid "])


indiscreet = st.builds("{}{}{}".format, words, st.sampled_from(PRIVATE), words)


anything = st.recursive(
    st.none() | st.integers() | indiscreet, lambda inner: st.lists(inner, max_size=2), max_leaves=3
)


long_words = st.builds("{} {}".format, st.integers(1960, 1999).map("x".__mul__), indiscreet)


row_pointers = st.builds(
    "/data/attributes/profiles/data/{}/attributes/properties/{}".format,
    st.integers(0, 9),
    indiscreet,
)


pointers = st.sampled_from([ROW, "/data", "/data/relationships/lists/data/0/id"]) | row_pointers


errors = st.fixed_dictionaries(
    {},
    optional={
        "id": anything,
        "code": anything,
        "title": anything,
        "detail": anything | long_words,
        "source": st.fixed_dictionaries(
            {}, optional={"pointer": pointers | anything, "parameter": anything}
        ),
    },
)


resources = st.fixed_dictionaries(
    {"attributes": errors}, optional={"id": anything | st.just("abc"), "original_payload": anything}
)


bodies = st.one_of(
    st.builds(lambda found: {"errors": found}, st.lists(errors, max_size=3)),
    st.builds(
        lambda found: {"data": found, "links": {"next": None}},
        st.lists(resources, max_size=3) | resources,
    ),
    st.builds(
        lambda link: {"data": [], "links": {"next": link}},
        indiscreet
        | st.builds(
            "{}{}".format, st.sampled_from(["/", "/api/profiles?", "http://127.0.0.1/"]), indiscreet
        ),
    ),
    anything,
    st.builds(lambda word: f"<html>{word}</html>".encode(), indiscreet),
    st.binary(max_size=20).map(lambda noise: noise + ADDRESS.encode()),
)


statuses = st.sampled_from([*STATUSES, 200, 202, 418, 599])


QUESTIONS: list[Callable[[Klaviyo], Any]] = [
    lambda klaviyo: klaviyo.start_import(batch(ADDRESS)),
    lambda klaviyo: klaviyo.account(),
    lambda klaviyo: klaviyo.find_list(LIST),
    lambda klaviyo: list(klaviyo.import_errors("job")),
    lambda klaviyo: klaviyo.profiles_by_email([ADDRESS]) and None,
    lambda klaviyo: klaviyo.remove_from_list(LIST, ["01ABC"]),
]


@given(status=statuses, body=bodies, ask=st.sampled_from(QUESTIONS), edge=st.booleans())
def test_whatever_klaviyo_answers_nothing_private_gets_out(
    scripted: Scripted,
    asking: Klaviyo,
    status: int,
    body: Any,
    ask: Callable[[Klaviyo], Any],
    edge: bool,
) -> None:
    scripted.answers(status, body, **({"cf_mitigated": "challenge"} if edge else {}))
    told = ""
    with everything_logged() as lines:
        try:
            told = repr(ask(asking))
        except ExporterError as exc:
            told = everything_about(exc) + repr(getattr(exc, "rows", ""))
    told += "".join(lines)

    assert not [each for each in PRIVATE if each in told]


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "source": st.fixed_dictionaries({"pointer": row_pointers}),
                "detail": indiscreet | long_words,
            },
            optional={"id": indiscreet | st.sampled_from(PRIVATE), "title": indiscreet},
        ),
        min_size=1,
        max_size=3,
    )
)
def test_whatever_klaviyo_says_about_rows_nothing_private_gets_out(
    scripted: Scripted, asking: Klaviyo, found: list[Any]
) -> None:
    scripted.answers(400, {"errors": found})
    with pytest.raises(BatchRefused) as caught:
        asking.start_import(b"{}")
    told = everything_about(caught.value)
    assert not [each for each in PRIVATE if each in told]

    scripted.answers(
        200,
        {
            "data": [
                {"attributes": {"code": "x", **each, "original_payload": each}} for each in found
            ]
        },
    )
    told = repr(list(asking.import_errors("job")))
    assert not [each for each in PRIVATE if each in told]


@pytest.mark.parametrize(
    "detail",
    [
        f"{KEY[:9]}\u200b{KEY[9:]}",
        "+1\u200b500\u200b555\u200b0006",
        "x" * 1985 + f"@b {ADDRESS}",  # what is looked at ends in the middle of the second address
    ],
)
def test_what_is_private_is_found_although_it_is_split_or_cut(
    scripted: Scripted, asking: Klaviyo, detail: str
) -> None:
    scripted.answers(400, refusal(detail, ROW))
    with pytest.raises(BatchRefused) as caught:
        asking.start_import(b"{}")
    reason = caught.value.rows[0].reason.replace("\u200b", "")
    assert not [each for each in (*PRIVATE, "jane") if each in reason]


def broken_off(klaviyo: Klaviyo, ask: Callable[[Klaviyo], Any]) -> str:
    with everything_logged() as lines, pytest.raises(Unavailable) as caught:
        ask(klaviyo)
    return everything_about(caught.value) + "".join(lines)


@pytest.mark.parametrize("ask", QUESTIONS)
@pytest.mark.parametrize("url", ["http://127.0.0.1:9", None])
def test_when_there_is_no_answer_nothing_private_gets_out_either(
    scripted: Scripted, ask: Callable[[Klaviyo], Any], url: str | None
) -> None:
    """Errors of the libraries hold the address of a request, and its filter holds e-mails."""
    scripted.answers(200, b"{", Content_Length="5", Connection="close")
    with Klaviyo(
        SecretStr(KEY),
        base_url=url or scripted.url,
        sleep=lambda _: None,
        jitter=lambda: 0.0,
        clock=lambda: 0.0,
    ) as klaviyo:
        told = broken_off(klaviyo, ask)

    assert not [each for each in PRIVATE if each in told]


def test_neither_client_nor_key_shows_the_key(asking: Klaviyo) -> None:
    assert KEY not in repr(asking)
    assert KEY not in repr(vars(asking))


def test_the_library_errors_cause_is_kept_where_it_is_harmless() -> None:
    with (
        Klaviyo(SecretStr(KEY), base_url="http://127.0.0.1:9") as klaviyo,
        pytest.raises(Unavailable) as caught,
    ):
        klaviyo.start_import(b"{}")
    cause = caught.value.__cause__
    assert isinstance(cause, requests.ConnectionError)
    assert "refused" in str(cause)
    assert cause.request is None  # it holds the key and the body
