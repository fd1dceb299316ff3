"""The document of a plan."""

from __future__ import annotations

import json

from exporter.planning.plan import Plan, PlannedBatch, Span
from tests.planning.planned import planned

MAPPING = {"email": "EMail", "first_name": "Name"}


def test_plan_adds_up_only_if_every_row_ended_once():
    batch = PlannedBatch(
        number=0, profiles=3, size_bytes=1, spans=(Span(piece=0, first=0, last=9),)
    )
    plan = Plan(
        sources=[], fields=[], identifier="email", pieces=[], batches=[batch],
        rows=9, profiles=3, duplicates=2, rejected={"a": 1, "b": 3}, dropped={}, examples={},
    )  # fmt: skip
    assert plan.adds_up()
    for change in (
        {"rows": 10},
        {"duplicates": 3},
        {"rejected": {}},
        {"batches": []},
        {"rows": 10, "profiles": 4},
    ):
        assert not plan.model_copy(update=change).adds_up()


def test_plan_document_names_its_schema_and_holds_no_cell():
    with planned({"1.csv": "EMail,Name\nada@x.co,Ada\nbob,Bob\n"}, MAPPING) as found:
        text = (found.folder / "plan.json").read_text(encoding="utf-8")
        assert json.loads(text)["schema"] == 1
        assert not any(word in text for word in ("ada@", "Ada", "bob", "Bob"))
