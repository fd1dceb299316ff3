"""What a plan comes to: the dry run, and why a plan is not sent."""

from __future__ import annotations

import json
from typing import Any

from exporter.definitions.mapped_fields import MappedField
from exporter.definitions.mapping import CLEARING, ValueType
from exporter.errors import ConfigError, ExporterError, SnapshotUnreadable
from exporter.klaviyo.rate_limit import seconds_to_send
from exporter.planning.new_people import NewPeople
from exporter.planning.plan import Plan

EMPTY_MESSAGE = "the snapshot is empty: it has no rows, and the list was left as it is"
EMPTY_HINT = (
    "Check the segment in Customer Insights: it has no members, or its export did not write them."
)


def refusal(plan: Plan, max_profiles: int | None) -> ExporterError | None:
    """Give the error for which a plan is not sent, if there is one."""
    if not plan.rows:
        return SnapshotUnreadable(EMPTY_MESSAGE, hint=EMPTY_HINT)
    if max_profiles is not None and plan.profiles > max_profiles:
        return ConfigError(
            f"{plan.profiles:,} profiles to send are more than the export's maximum of"
            f" {max_profiles:,}; nothing was sent",
            hint="Check the segment in Customer Insights. If it is right, raise the export's"
            " maximum and run it again.",
        )
    return None


def _nothing_to_send(plan: Plan) -> ExporterError | None:
    """Give the error that a run of rejected rows only ends with."""
    if plan.profiles:
        return None
    return SnapshotUnreadable(
        f"none of {plan.rows:,} rows could be delivered",
        hint="Check the mapping, and the reasons below.",
    )


def plan_summary(
    plan: Plan,
    samples: list[str],
    *,
    max_profiles: int | None = None,
    share: float = 1.0,
    show_values: bool = False,
    new_people: NewPeople | None = None,
) -> dict[str, Any]:
    """Say what a run of this plan would do.

    `message` and `hint` say why the run would end as Failed before it sends anything.
    samples: profiles as Klaviyo would get them; their values are masked unless `show_values`.
    max_profiles: the export's maximum.
    share: the part of Klaviyo's steady rate that the run may use.
    new_people: None where the account's room is not known.
    """
    profiles = [json.loads(text) for text in samples]
    refused = refusal(plan, max_profiles) or _nothing_to_send(plan)
    return {
        "message": refused.message if refused else "",
        "hint": refused.hint if refused else "",
        "rows": plan.rows,
        "profiles": plan.profiles,
        "duplicates": plan.duplicates,
        "rejected": sum(plan.rejected.values()),
        "rejected_by_reason": plan.rejected,
        "cells_left_out": plan.dropped,
        "cells_left_out_examples": plan.dropped_examples,
        **details(plan),
        "examples": plan.examples,
        "adds_up": plan.adds_up(),
        "jobs": len(plan.batches),
        "seconds_at_klaviyos_pace": round(seconds_to_send(len(plan.batches), share=share), 1),
        "new_people": new_people.number if new_people else None,
        "room": new_people.room if new_people else None,
        "account": new_people.told() if new_people else "",
        "identifier": plan.identifier,
        "mapping": [_mapped(one, plan) for field in plan.fields for one in field.unbundled()],
        "files": [note.model_dump() for note in plan.sources],
        "samples": profiles if show_values else [mask(profile) for profile in profiles],
    }


def details(plan: Plan) -> dict[str, Any]:
    """Say what the plan does beside sending cells as they are: for the dry run and the report."""
    return {
        "cells_left_out_reasons": plan.dropped_reasons,
        "cells_cleared": plan.cleared,
        "columns_not_cleared": plan.not_cleared,
        "date_orders": [order.model_dump() for order in plan.date_orders],
        "doubtful": plan.doubtful,
    }


def _mapped(field: MappedField, plan: Plan) -> str:
    """Say how one attribute is filled.

    The columns are those of the first file that has so many: the field was found in these.
    """
    column = next(
        note.columns[field.column] for note in plan.sources if len(note.columns) > field.column
    )
    target = f"{field.group}.{field.name}" if field.group else field.name
    kind = "" if field.type is ValueType.STRING else f" as {field.type}"
    clears = ", empty clears" if field.empty in CLEARING else ""
    return f"{target} from {column}{kind}{clears}"


def mask(profile: dict[str, Any]) -> dict[str, Any]:
    """Give a profile without its values, of which only the first character is left.

    Any column may hold an address, whatever its name.
    """
    return {**profile, "attributes": _masked(profile["attributes"])}


def _masked(value: Any) -> Any:
    match value:
        case dict():
            return {name: _masked(each) for name, each in value.items()}
        case list():
            return [_masked(each) for each in value]
        case bool():
            return value
    return str(value)[:1] + "***"
