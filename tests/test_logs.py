"""Log lines: a constant message, fields, and the run on each of them."""

from __future__ import annotations

import io
import logging
import sys
import threading
from collections.abc import Iterator

import pytest

from exporter.logs import FIELDS, FieldFormatter, RunIdFilter, bound_run, quiet_sdks, show_fields


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger without handlers, put back afterwards."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    levels = {name: logging.getLogger(name).level for name in ("azure", "urllib3", "msal")}
    logger.handlers[:] = []
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def _record(**fields: object) -> logging.LogRecord:
    record = logging.LogRecord(
        "exporter.service", logging.INFO, __file__, 1, "batch %s", ("accepted",), None
    )
    record.__dict__.update(fields)
    RunIdFilter().filter(record)
    return record


def _line(**fields: object) -> str:
    return FieldFormatter().format(_record(**fields))


def test_a_line_is_the_message_and_its_fields() -> None:
    with bound_run("vips/1"):
        assert _line(batch=3, wait_s=0.5) == "batch accepted run_id=vips/1 batch=3 wait_s=0.5"


def test_the_record_itself_stays_as_it_is() -> None:
    record = _record(batch=3)
    FieldFormatter().format(record)
    assert record.getMessage() == "batch accepted"


def test_fields_that_are_empty_or_unknown_are_left_out() -> None:
    assert _line(status="", cause=None, secret="x") == "batch accepted"


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_is_shown_zero_too(field: str) -> None:
    assert _line(**{field: 0}) == f"batch accepted {field}=0"


def test_a_field_cannot_begin_a_line_of_its_own() -> None:
    assert _line(segment="a\nERROR all is lost\r\n") == "batch accepted segment=a ERROR all is lost"


def test_a_percent_sign_in_a_field_is_only_that() -> None:
    assert _line(segment="100%s") == "batch accepted segment=100%s"


def test_a_run_that_is_named_in_the_call_wins() -> None:
    with bound_run("vips/1"):
        assert "run_id=vips/2" in _line(run_id="vips/2")


def test_a_run_is_bound_for_its_block_and_its_thread_only() -> None:
    lines = []
    with bound_run("outer"):
        with bound_run("inner"):
            thread = threading.Thread(target=lambda: lines.append(_line()))
            thread.start()
            thread.join()
            lines.append(_line())
        lines.append(_line())
    lines.append(_line())
    assert [line.partition("run_id=")[2] for line in lines] == ["", "inner", "outer", ""]


def test_an_exception_is_shown_below_its_line() -> None:
    record = _record(batch=3)
    try:
        int("of no one in particular")
    except ValueError:
        record.exc_info = sys.exc_info()
    first, *_, last = FieldFormatter().format(record).splitlines()
    assert (first, last.partition(":")[0]) == ("batch accepted batch=3", "ValueError")


def test_the_sdks_are_quiet(root: logging.Logger) -> None:
    root.setLevel(logging.DEBUG)
    quiet_sdks()
    for name in ("azure.core.pipeline", "urllib3.connectionpool", "msal.application"):
        assert not logging.getLogger(name).isEnabledFor(logging.INFO)
        assert logging.getLogger(name).isEnabledFor(logging.WARNING)


def test_handlers_that_are_there_show_the_fields_each_in_its_own_form(root: logging.Logger) -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(logging.Formatter("%(levelname)s|%(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    show_fields()
    show_fields()  # once is enough, twice does no harm
    with bound_run("vips/1"):
        logging.getLogger("exporter.service").info("run created", extra={"segment": "HighValue"})
    logging.getLogger("azure.core").info("a request with headers")
    assert out.getvalue() == "INFO|run created run_id=vips/1 segment=HighValue\n"
