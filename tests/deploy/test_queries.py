"""The Kusto queries name what the code really logs: messages, fields, functions, causes."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import get_args

import pytest

from exporter import errors, telemetry
from exporter.klaviyo.backoff import Outcome
from exporter.orchestration import results
from exporter.orchestration.missed_arrivals import BETWEEN_LOOKS
from exporter.runs.run import Status

ROOT = Path(__file__).parents[2]
QUERIES = ROOT / "infra" / "queries"


def queries() -> Iterator[tuple[str, str]]:
    """Every query: in files, in the workbook, in the documents."""
    for path in sorted(QUERIES.glob("*.kql")):
        yield path.name, path.read_text(encoding="utf-8")
    for item in json.loads((QUERIES / "workbook.json").read_text(encoding="utf-8"))["items"]:
        if "query" in item["content"]:
            yield f"workbook: {item['name']}", item["content"]["query"]
    for path in sorted((ROOT / "docs").rglob("*.md")):
        for number, query in enumerate(
            re.findall(r"(?s)```kusto\n(.*?)```", path.read_text(encoding="utf-8"))
        ):
            yield f"{path.name} {number}", query


def logged() -> tuple[set[str], set[str]]:
    """Messages and names of fields in calls of `logger`."""
    messages, fields = set(), {"run_id", *telemetry.ATTRIBUTES}
    for path in [*(ROOT / "exporter").rglob("*.py"), ROOT / "function_app.py"]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if isinstance(node.func.value, ast.Name) and node.func.value.id == "logger":
                at = 1 if node.func.attr == "log" else 0  # log(level, message)
                told = node.args[at : at + 1]
                messages |= {arg.value for arg in told if isinstance(arg, ast.Constant)}
        # Fields are literal dictionaries, in the call or just before it.
        for node in ast.walk(tree):
            if isinstance(node, ast.Dict):
                fields |= {str(key.value) for key in node.keys if isinstance(key, ast.Constant)}
    return messages, fields


ALL = list(queries())
MESSAGES, FIELDS = logged()
FUNCTIONS = set(
    re.findall(r"(?m)^def (\w+)\(", (ROOT / "function_app.py").read_text(encoding="utf-8"))
)


def compared(query: str, column: str) -> set[str]:
    """The texts that a column is compared with."""
    found = set(re.findall(rf'{column} [!=]= "([^"]*)"', query))
    for several in re.findall(rf"{column} in \(([^)]*)\)", query):
        found |= set(re.findall(r'"([^"]*)"', several))
    return found


@pytest.mark.parametrize(("name", "query"), ALL, ids=[name for name, _ in ALL])
def test_query_names_what_the_code_logs(name: str, query: str) -> None:
    assert compared(query, "(?:message|said)") <= MESSAGES
    assert compared(query, r"(?<!_)\bname") <= FUNCTIONS | set(telemetry.SPANS) | set(
        telemetry.METRICS
    )
    assert set(re.findall(r"customDimensions\.(\w+)", query)) <= FIELDS
    assert compared(query, r"customDimensions\.status\)") <= {str(status) for status in Status} | {
        "429",
        "0",
    }
    outcomes = {str(outcome) for outcome in Outcome}
    outcomes |= {kind.__name__ for kind in get_args(results.Result)}
    assert compared(query, r"customDimensions\.outcome\)") <= outcomes
    assert compared(query, r"customDimensions\.cause\)") <= set(vars(errors))


def test_some_comparisons_were_found_at_all() -> None:
    """Else the test above would hold of anything."""
    everything = "\n".join(query for _, query in ALL)
    assert {"run ended", "run created", "step put off"} <= compared(everything, "(?:message|said)")
    assert {"on_tick", "on_poison"} <= compared(everything, r"(?<!_)\bname")
    assert {"exporter.request.seconds", "exporter.profiles"} <= compared(
        everything, r"(?<!_)\bname"
    )


def test_no_line_of_ours_carries_a_stack_trace() -> None:
    """It may quote another's text, and it moves a line from `traces`, where queries look."""
    for path in (ROOT / "exporter").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"logger\.exception|exc_info=|stack_info=", text), path.name


def test_share_of_429_is_one_of_all_answers_and_compared_with_the_parameter() -> None:
    query = (QUERIES / "rate-limited.kql").read_text(encoding="utf-8")
    assert compared(query, r"(?<!_)\bname") == {telemetry.REQUESTS}
    assert "percent > {PERCENT}" in query
    alerts = (ROOT / "infra" / "modules" / "alerts.bicep").read_text(encoding="utf-8")
    query_text = "loadTextContent('../queries/rate-limited.kql')"
    assert f"replace({query_text}, '{{PERCENT}}', string(rateLimitedPercent))" in alerts


def test_missing_runs_and_ticks_are_told_only_of_an_app_that_had_them_to_do() -> None:
    """A new app has no rows at all: whatever counts too few of them would fire on it."""
    runs = (QUERIES / "new-runs.kql").read_text(encoding="utf-8")
    assert compared(runs, "message") == {"run created", "exports waiting"}
    assert "minif(timestamp, exports > 0)" in runs
    assert "runs == 0 and since < ago({HOURS}h) + 75m" in runs
    # An hourly line, told at the next five-minute tick, is in the first 75 minutes of any window.
    assert timedelta(hours=1) == BETWEEN_LOOKS
    alerts = (ROOT / "infra" / "modules" / "alerts.bicep").read_text(encoding="utf-8")
    query_text = "loadTextContent('../queries/new-runs.kql')"
    assert f"replace({query_text}, '{{HOURS}}', string(quietHours))" in alerts
    timer = (QUERIES / "timer.kql").read_text(encoding="utf-8")
    assert "summarize last = max(timestamp)" in timer  # of no rows it is null, which is not less
    assert "LessThan" not in alerts


def test_every_query_has_its_alert() -> None:
    alerts = (ROOT / "infra" / "modules" / "alerts.bicep").read_text(encoding="utf-8")
    assert set(re.findall(r"queries/([\w-]+\.kql)", alerts)) == {
        path.name for path in QUERIES.glob("*.kql")
    }


@pytest.mark.parametrize(("name", "query"), ALL, ids=[name for name, _ in ALL])
def test_query_is_balanced_and_reads_a_known_table(name: str, query: str) -> None:
    bare = re.sub(r'"[^"]*"|//[^\n]*', "", query)
    for opening, closing in ("()", "{}", "[]"):
        assert bare.count(opening) == bare.count(closing)
    assert re.search(
        r"(?m)^(traces|requests|dependencies|customMetrics|union traces, exceptions)\b", bare
    )
