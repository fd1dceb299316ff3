"""How a run ended, by its numbers. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from exporter.planning.plan import Plan
from exporter.planning.summary import EMPTY_HINT, EMPTY_MESSAGE
from exporter.rejection_reasons import RejectReason
from exporter.runs.run import Counts, Status
from exporter.sending.delivery import Delivery

REFUSED_HINT = (
    "left_out.csv in the run's folder names file, line, attribute and Klaviyo's reason of each. "
    "Mostly another profile has the same phone number or external id."
)


def count(plan: Plan, delivery: Delivery) -> Counts:
    """The run's numbers from its plan and what Klaviyo took."""
    rejected, unconfirmed = dict(plan.rejected), delivery.unconfirmed_profiles()
    for reason, number in (
        (RejectReason.REFUSED_BY_KLAVIYO, delivery.refused_profiles()),
        (RejectReason.FAILED_IN_KLAVIYO, delivery.failed_profiles()),
        (RejectReason.UNCONFIRMED, unconfirmed),
        (RejectReason.JOB_LOST, delivery.lost_profiles()),
    ):
        if number:
            rejected[reason] = rejected.get(reason, 0) + number
    return Counts(
        rows=plan.rows,
        profiles=plan.profiles,
        accepted=delivery.accepted_profiles,
        delivered=delivery.confirmed_profiles(),
        duplicates=plan.duplicates,
        rejected=rejected,
        dropped=plan.dropped,
        attributes_refused=_attributes_refused(delivery),
        jobs=len(delivery.jobs),
    )


def _attributes_refused(delivery: Delivery) -> dict[str, int]:
    found: Counter[str] = Counter()
    for _, omissions in delivery.delivered_without():
        found.update(name for _, omission in omissions for name in omission.names)
    return dict(found)


def _by_attribute(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} of {attribute}" for attribute, number in sorted(counts.items()))


def _refused(counts: Counts) -> str:
    refused = _by_attribute(counts.attributes_refused)
    return f"left out because Klaviyo refused it: {refused}"


def doubt(counts: Counts) -> tuple[str, str]:
    """What of the list does not agree with what was delivered, and what to do.

    Empty where all of it does.
    """
    if counts.list_missing:
        return (
            f"{counts.list_missing:,} of {counts.list_sampled:,} people that were looked up are "
            "not in the list",
            "Look at the list in an hour: Klaviyo may be late. If they are still missing, run the "
            "export again.",
        )
    if counts.list_members is None or counts.list_sampled is None:
        return (
            "Klaviyo did not answer who is in the list",
            "Look at the list in Klaviyo, and at status.klaviyo.com.",
        )
    if counts.list_members < counts.delivered:
        return (
            f"Klaviyo counts {counts.list_members:,} members of the list",
            "Klaviyo counts late. Look at the list in an hour. If members are still missing, "
            "Klaviyo has merged profiles.",
        )
    return "", ""


def verdict(
    counts: Counts, missing: Sequence[str] = (), *, reconciles: bool = False
) -> tuple[Status, str, str]:
    """How a run whose every batch is settled ended: status, message, hint.

    missing: see Manifest.
    """
    status, message, hint = _verdict_on(counts, *(doubt(counts) if reconciles else ("", "")))
    if not missing or status is Status.FAILED:
        return status, message, hint
    message += f"; there is no snapshot of {', '.join(missing)}"
    hint = f"{hint} Check the segments' names, and that Customer Insights exports them.".strip()
    return Status.WARNINGS, message, hint


def _verdict_on(counts: Counts, doubtful: str, advice: str) -> tuple[Status, str, str]:
    if not counts.adds_up():
        return (
            Status.FAILED,
            "the numbers do not add up: some rows are unaccounted for",
            "Report this as a defect with the run's folder name. Then run the export again. That "
            "is harmless.",
        )
    rejected = sum(counts.rejected.values())
    if not counts.rows:
        return Status.FAILED, EMPTY_MESSAGE, EMPTY_HINT
    if rejected and not counts.delivered:
        return (
            Status.FAILED,
            f"none of {counts.rows:,} rows could be delivered",
            f"{_rejected_hint(counts)} Check the mapping.",
        )
    if rejected:
        return (
            Status.WARNINGS,
            f"{counts.delivered:,} of {counts.rows:,} rows delivered, {rejected:,} rejected"
            + (f"; cells left out: {_by_attribute(counts.dropped)}" if counts.dropped else "")
            + (f"; {_refused(counts)}" if counts.attributes_refused else "")
            + (f"; {doubtful}" if doubtful else ""),
            f"{_rejected_hint(counts)} {advice}".strip(),
        )
    if counts.dropped:
        return (
            Status.WARNINGS,
            f"{counts.delivered:,} profiles delivered, without cells that could not be read: "
            + _by_attribute(counts.dropped)
            + (f"; {_refused(counts)}" if counts.attributes_refused else "")
            + (f"; {doubtful}" if doubtful else ""),
            "The report names the first of these cells by file and line. Check them, and how the "
            "mapping reads them." + (f" {advice}" if advice else ""),
        )
    if counts.attributes_refused:
        return (
            Status.WARNINGS,
            f"{counts.delivered:,} profiles delivered; {_refused(counts)}"
            + (f"; {doubtful}" if doubtful else ""),
            f"{REFUSED_HINT} {advice}".strip(),
        )
    if doubtful:
        return Status.WARNINGS, f"{counts.delivered:,} profiles delivered, but {doubtful}", advice
    return Status.SUCCESSFUL, f"{counts.delivered:,} profiles delivered", ""


def _rejected_hint(counts: Counts) -> str:
    hint = "`report RUN --rows rejected` names file, line and reason of each."
    if unconfirmed := counts.rejected.get(RejectReason.UNCONFIRMED):
        hint += (
            f" Klaviyo does not say what became of {unconfirmed:,} of them, or which they are. Run"
            " the export again. That is harmless. If the number stays, look at the import jobs in"
            " Klaviyo: it may merge profiles."
        )
    return hint
