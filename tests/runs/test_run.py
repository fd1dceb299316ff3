"""Runs only move forward, and their numbers add up whatever happens to their batches."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from exporter.definitions.mapping import parse_mapping
from exporter.planning.plan import Plan, PlannedBatch, Span
from exporter.runs.run import (
    Counts,
    Phase,
    Run,
    RunName,
    Status,
    close,
    enter,
    new_run_id,
    run_folder,
    skipped_run_id,
)
from exporter.runs.verdict import count, verdict
from exporter.sending.delivery import (
    BatchAccepted,
    Delivery,
    Event,
    JobEnded,
    JobLost,
    RowsRefused,
    decode_events,
    encode_events,
    grouped,
)
from exporter.snapshots.manifest import Manifest, ManifestPartition

NOW = datetime(2026, 9, 21, 13, 33, 20, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
PHASES = list(Phase)
ENDS = [status for status in Status if not status.is_open]


def a_run(**changes: Any) -> Run:
    fields: dict[str, Any] = {
        "run_id": "vips/1",
        "export": "vips",
        "export_name": "VIPs",
        "connection": "main",
        "list_id": "LIST01",
        "mapping": parse_mapping({"email": "EMail"}),
        "because": "arrival",
        "manifest": a_manifest(),
        "created_at": NOW,
    }
    return Run(**(fields | changes))


def a_manifest(*names: str, etag: str = "e") -> Manifest:
    partitions = [
        ManifestPartition(name=name, etag=etag, size_bytes=1) for name in names or ("a.csv",)
    ]
    return Manifest(snapshots=["x/"], exported_at=NOW, partitions=partitions)


def a_plan(*profiles: int, duplicates: int = 0, **rejected: int) -> Plan:
    """A plan with batches of so many profiles."""
    batches = [
        PlannedBatch(
            number=number,
            profiles=many,
            size_bytes=many,
            spans=(Span(piece=0, first=0, last=many),),
        )
        for number, many in enumerate(profiles)
    ]
    return Plan(
        sources=[],
        fields=[],
        identifier="email",
        pieces=[],
        batches=batches,
        rows=sum(profiles) + duplicates + sum(rejected.values()),
        profiles=sum(profiles),
        duplicates=duplicates,
        rejected=rejected,
        dropped={},
        examples={},
    )


def accepted(job: str, batch: int, first: int, last: int, *without: int) -> BatchAccepted:
    return BatchAccepted(
        batch=batch, first=first, last=last, without=list(without), job=job, at=NOW
    )


def is_all_sent(delivery: Delivery, plan: Plan) -> bool:
    return not any(delivery.remaining(batch) for batch in plan.batches)


# Phases and ends


@pytest.mark.parametrize(("start", "end"), list(itertools.product(PHASES[:-1], PHASES[:-1])))
def test_a_run_enters_this_phase_or_a_later_one_and_sends_again_what_was_not_imported(
    start: Phase, end: Phase
) -> None:
    run = a_run(phase=start, status=Status.REFRESHING)
    sends_again = (start, end) == (Phase.CONFIRM, Phase.SEND)
    if PHASES.index(end) < PHASES.index(start) and not sends_again:
        with pytest.raises(ValueError, match="cannot go"):
            enter(run, end, now=LATER)
    else:
        assert (enter(run, end, now=LATER).phase, enter(run, end, now=LATER).status) == (
            end,
            Status.REFRESHING,
        )


@pytest.mark.parametrize(("end", "phase"), list(itertools.product(ENDS, PHASES)))
def test_a_closed_run_enters_nothing(end: Status, phase: Phase) -> None:
    with pytest.raises(ValueError, match="cannot go"):
        enter(close(a_run(), end, now=LATER), phase, now=LATER)


def test_a_run_begins_once() -> None:
    run = enter(a_run(), Phase.SEND, now=NOW)
    assert enter(run, Phase.CONFIRM, now=LATER).started_at == NOW


@pytest.mark.parametrize(("first", "second"), list(itertools.product(ENDS, Status)))
def test_the_first_end_stands(first: Status, second: Status) -> None:
    closed = close(a_run(), first, now=NOW, message="first", hint="do this")
    assert close(closed, second, now=LATER, message="second") == closed
    assert (closed.phase, closed.finished_at) == (Phase.CLOSED, NOW)


@pytest.mark.parametrize("status", [Status.QUEUED, Status.REFRESHING])
def test_an_open_status_is_no_end(status: Status) -> None:
    with pytest.raises(ValueError, match="no end"):
        close(a_run(), status, now=NOW)


def test_a_run_survives_being_written_and_read() -> None:
    run = a_run(counts=Counts(rows=3, delivered=2, rejected={"no_identifier": 1}))
    text = run.model_dump_json(by_alias=True)
    assert '"schema":1' in text
    assert Run.model_validate_json(text) == run


# Identity


def test_a_run_is_named_by_export_time_and_what_it_reads() -> None:
    manifest = a_manifest("a.csv", "b.csv")
    assert new_run_id("vips", manifest, 1) == f"vips/20260921T1333Z-{manifest.digest()}"
    assert new_run_id("vips", manifest, 2) == new_run_id("vips", manifest, 1) + "-2"
    assert run_folder("vips/x") == "runs/vips/x/"
    assert skipped_run_id("vips", manifest.exported_at) == "vips/20260921T133320Z-skipped"


def test_the_name_of_a_run_can_be_read_back() -> None:
    manifest = a_manifest("a.csv")
    ids = [new_run_id("vips", manifest, attempt) for attempt in (1, 2, 10)]
    ids.append(skipped_run_id("vips", manifest.exported_at))
    names = [RunName.parse(each.removeprefix("vips/")) for each in ids]
    assert [f"vips/{name}" for name in names] == ids
    assert sorted(name for name in names if name) == names, "a tenth attempt is newer than a second"


@pytest.mark.parametrize(
    "name", ["", "x", "20260921T1333Z-skipped", "20261321T1333Z-0123456789", "20260921T1333Z-x"]
)
def test_what_names_no_run_is_none(name: str) -> None:
    assert RunName.parse(name) is None


def test_the_digest_tells_versions_and_blobs_apart() -> None:
    manifests = [
        a_manifest("a.csv"),
        a_manifest("a.csv", etag="f"),
        a_manifest("b.csv"),
        a_manifest("a.csv", "b.csv"),
    ]
    assert len({manifest.digest() for manifest in manifests}) == 4


# Events, one by one


EVENTS: list[Event] = [
    accepted("j1", 0, 0, 10, 3),
    RowsRefused(batch=0, said=grouped([(3, "email: ü")])),
    JobEnded(job="j1", completed=9, said=grouped([(4, "no"), (None, "who knows")])),
    JobLost(job="j2", why="gone"),
]


def test_events_survive_being_written_and_read() -> None:
    assert list(decode_events(encode_events(EVENTS))) == EVENTS
    assert encode_events(EVENTS).count(b"\n") == len(EVENTS)


def test_an_event_of_an_unknown_kind_is_not_passed_over() -> None:
    with pytest.raises(ValueError, match="kind"):
        list(decode_events(b'{"kind": "from_the_future"}\n'))


def test_positions_are_those_of_the_request() -> None:
    assert accepted("j", 0, 2, 8, 3, 5).positions() == [2, 4, 6, 7]


def test_a_range_that_was_accepted_before_is_not_counted_again() -> None:
    """A batch sent twice: in halves, then whole after a crash, or the other way round."""
    halves = [accepted("j1", 0, 0, 5), accepted("j2", 0, 5, 10)]
    whole = accepted("j3", 0, 0, 10)
    for events in ([*halves, whole], [whole, *halves], [halves[0], whole, halves[1]]):
        delivery = Delivery.replay(events)
        assert delivery.accepted_profiles <= 10
        assert Delivery.replay([*events, *events]) == delivery
    assert list(Delivery.replay([*halves, whole]).jobs) == ["j1", "j2"]
    assert list(Delivery.replay([whole, *halves]).jobs) == ["j3"]


def test_a_row_that_was_accepted_is_not_refused_afterwards() -> None:
    delivery = Delivery.replay(
        [accepted("j1", 0, 0, 10), RowsRefused(batch=0, said=grouped([(3, "late")]))]
    )
    assert (delivery.accepted_profiles, delivery.refused_profiles()) == (10, 0)


def test_a_row_that_was_left_out_can_be_refused_afterwards() -> None:
    """The job is on record before the refusal that made it leave the row out.

    The row is not lost.
    """
    delivery = Delivery.replay(
        [
            accepted("j1", 0, 0, 10, 3),
            RowsRefused(batch=0, said=grouped([(3, "late"), (4, "late")])),
        ]
    )
    assert (delivery.accepted_profiles, delivery.refused) == (9, {0: {3: "late"}})
    assert is_all_sent(delivery, a_plan(10))


def test_a_row_that_was_left_out_and_not_refused_remains() -> None:
    delivery = Delivery.replay([accepted("j1", 0, 0, 10, 3, 4)])
    assert delivery.remaining(a_plan(10).batches[0]) == [(3, 5)]
    delivery.apply(accepted("j2", 0, 3, 5))
    assert (delivery.accepted_profiles, is_all_sent(delivery, a_plan(10))) == (10, True)


def test_a_row_that_was_refused_is_not_accepted_afterwards() -> None:
    delivery = Delivery.replay(
        [RowsRefused(batch=0, said=grouped([(3, "no")])), accepted("j1", 0, 0, 10)]
    )
    assert (delivery.accepted_profiles, delivery.refused_profiles()) == (0, 1)
    assert delivery.remaining(a_plan(10).batches[0]) == [(0, 10)]


@pytest.mark.parametrize("second", [(0, 6), (4, 10), (3, 4), (2, 8), (0, 10)])
def test_ranges_that_overlap_count_once_and_the_rest_remains(second: tuple[int, int]) -> None:
    delivery = Delivery.replay(
        [accepted("j1", 0, 2, 5), accepted("j2", 0, *second), JobEnded(job="j2", completed=9)]
    )
    assert (delivery.accepted_profiles, list(delivery.jobs), delivery.ended) == (3, ["j1"], {})
    assert delivery.remaining(a_plan(10).batches[0]) == [(0, 2), (5, 10)]


def test_a_job_nobody_accepted_neither_ends_nor_is_lost() -> None:
    delivery = Delivery.replay([JobEnded(job="x", completed=1), JobLost(job="y", why="gone")])
    assert (delivery.ended, delivery.lost) == ({}, {})


def test_the_first_end_of_a_job_stands() -> None:
    end, lost = JobEnded(job="j1", completed=10), JobLost(job="j1", why="gone")
    assert not Delivery.replay([accepted("j1", 0, 0, 10), end, lost]).lost
    assert not Delivery.replay([accepted("j1", 0, 0, 10), lost, end]).ended


def test_open_jobs_come_oldest_first() -> None:
    delivery = Delivery.replay([accepted(f"j{n}", n, 0, 1) for n in (3, 1, 2)])
    delivery.apply(JobEnded(job="j1", completed=1))
    assert delivery.open_jobs() == ["j3", "j2"]


# Any course of a delivery


class Course(RuleBasedStateMachine):
    """What a sender and Klaviyo can do to the batches of a plan, in any order, records doubled."""

    plan = a_plan(7, 1, 12, duplicates=2, no_identifier=3)

    def __init__(self) -> None:
        super().__init__()
        self.delivery = Delivery()
        self.journal: list[Event] = []
        self.jobs = itertools.count()

    def record(self, event: Event) -> None:
        """Into the journal and into the delivery. Nothing that was decided is undone."""
        before = self.facts()
        self.journal.append(event)
        self.delivery.apply(event)
        assert before <= self.facts()

    def facts(self) -> set[Any]:
        delivery = self.delivery
        return (
            set(delivery.jobs)
            | {("ended", job) for job in delivery.ended}
            | {("lost", job) for job in delivery.lost}
            | {
                ("refused", batch, at, words)
                for batch, rows in delivery.refused.items()
                for at, words in rows.items()
            }
        )

    def some_range(self, data: st.DataObject) -> tuple[PlannedBatch, int, int] | None:
        choices = [
            (batch, *each) for batch in self.plan.batches for each in self.delivery.remaining(batch)
        ]
        if not choices:
            return None
        batch, first, last = data.draw(st.sampled_from(choices))
        cuts = sorted(
            data.draw(st.lists(st.integers(first, last), min_size=2, max_size=2, unique=True))
        )
        return batch, cuts[0], cuts[1]

    @rule(data=st.data())
    def klaviyo_takes_a_range(self, data: st.DataObject) -> None:
        if chosen := self.some_range(data):
            batch, first, last = chosen
            left_out = self.delivery.without(batch.number, first, last)
            if len(left_out) < last - first:
                self.record(accepted(f"j{next(self.jobs)}", batch.number, first, last, *left_out))

    @rule(data=st.data())
    def klaviyo_refuses_rows(self, data: st.DataObject) -> None:
        if chosen := self.some_range(data):
            batch, first, last = chosen
            left_out = set(self.delivery.without(batch.number, first, last))
            possible = [at for at in range(first, last) if at not in left_out]
            rows = (
                data.draw(st.lists(st.sampled_from(possible), unique=True, max_size=3))
                if possible
                else []
            )
            self.record(RowsRefused(batch=batch.number, said=grouped([(at, "no") for at in rows])))

    @rule(data=st.data())
    def a_whole_batch_is_sent_again_after_a_crash(self, data: st.DataObject) -> None:
        batch = data.draw(st.sampled_from(self.plan.batches))
        left_out = self.delivery.without(batch.number, 0, batch.profiles)
        if len(left_out) < batch.profiles:
            self.record(accepted(f"j{next(self.jobs)}", batch.number, 0, batch.profiles, *left_out))

    @rule(data=st.data())
    def a_record_comes_late_or_overlaps(self, data: st.DataObject) -> None:
        """Any range with anything left out, any rows refused: whatever was on record before."""
        batch = data.draw(st.sampled_from(self.plan.batches))
        position = st.integers(0, batch.profiles - 1)
        some = data.draw(st.lists(position, max_size=3))
        if data.draw(st.booleans()):
            first, last = sorted((data.draw(position), data.draw(position)))
            late = accepted(f"j{next(self.jobs)}", batch.number, first, last + 1, *some)
            if late.positions():
                self.record(late)
        else:
            self.record(
                RowsRefused(batch=batch.number, said=grouped([(at, "late") for at in some]))
            )

    @precondition(lambda self: self.journal)
    @rule(data=st.data())
    def a_record_is_written_twice(self, data: st.DataObject) -> None:
        before = encode_state(self.delivery)
        self.record(data.draw(st.sampled_from(self.journal)))
        assert encode_state(self.delivery) == before

    @precondition(lambda self: self.delivery.open_jobs())
    @rule(data=st.data())
    def a_job_ends(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.delivery.open_jobs()))
        positions = self.delivery.jobs[job].positions()
        failed = data.draw(st.lists(st.sampled_from(positions), unique=True))
        completed = data.draw(st.integers(0, len(positions) + 1))
        self.record(
            JobEnded(job=job, completed=completed, said=grouped([(at, "no") for at in failed]))
        )

    @precondition(lambda self: self.delivery.open_jobs())
    @rule(data=st.data())
    def a_job_is_lost(self, data: st.DataObject) -> None:
        self.record(JobLost(job=data.draw(st.sampled_from(self.delivery.open_jobs())), why="gone"))

    @invariant()
    def every_profile_is_in_one_place(self) -> None:
        for batch in self.plan.batches:
            refused = set(self.delivery.refused.get(batch.number, {}))
            places = [
                at for one in self.delivery.accepted.get(batch.number, ()) for at in one.positions()
            ]
            places += refused
            places += [
                at
                for first, last in self.delivery.remaining(batch)
                for at in range(first, last)
                if at not in refused
            ]
            assert sorted(places) == list(range(batch.profiles))

    @invariant()
    def replaying_the_journal_gives_the_same(self) -> None:
        state = encode_state(self.delivery)
        assert encode_state(Delivery.replay(self.journal)) == state
        assert encode_state(Delivery.replay([*self.journal, *self.journal])) == state
        assert encode_state(Delivery.replay(decode_events(encode_events(self.journal)))) == state

    @invariant()
    def the_numbers_add_up_when_all_is_decided(self) -> None:
        counts = count(self.plan, self.delivery)
        decided = is_all_sent(self.delivery, self.plan) and not self.delivery.open_jobs()
        assert counts.adds_up() == decided or (not decided and counts.delivered < counts.rows)
        assert 0 <= counts.delivered <= counts.accepted <= counts.profiles
        assert counts.jobs == len(self.delivery.jobs)

    def teardown(self) -> None:
        """Whatever happened: send the rest, end every job, and it adds up."""
        for batch in self.plan.batches:
            for first, last in self.delivery.remaining(batch):
                left_out = self.delivery.without(batch.number, first, last)
                self.record(accepted(f"j{next(self.jobs)}", batch.number, first, last, *left_out))
        assert is_all_sent(self.delivery, self.plan)
        for job in self.delivery.open_jobs():
            self.record(JobEnded(job=job, completed=len(self.delivery.jobs[job].positions())))
        counts = count(self.plan, self.delivery)
        assert counts.adds_up()
        assert verdict(counts)[0] in (Status.WARNINGS, Status.FAILED)
        assert counts.rows == 25


def encode_state(delivery: Delivery) -> Any:
    return (
        {
            number: [one.model_dump() for one in ranges]
            for number, ranges in delivery.accepted.items()
            if ranges
        },
        {number: rows for number, rows in delivery.refused.items() if rows},
        {job: one.model_dump() for job, one in delivery.ended.items()},
        {job: one.model_dump() for job, one in delivery.lost.items()},
    )


Course.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestCourse = Course.TestCase


@given(st.permutations(EVENTS))
def test_no_order_of_records_is_too_odd_to_replay(events: list[Event]) -> None:
    delivery = Delivery.replay([*events, *events])
    assert delivery.accepted_profiles == 9
    assert delivery.refused_profiles() == 1
    assert is_all_sent(delivery, a_plan(10))
    assert len(delivery.ended) == 1


# How a run ended


@pytest.mark.parametrize(
    ("counts", "status"),
    [
        (Counts(rows=3, delivered=3), Status.SUCCESSFUL),
        (Counts(rows=3, delivered=2, duplicates=1), Status.SUCCESSFUL),
        (Counts(rows=3, delivered=2, rejected={"job_lost": 1}), Status.WARNINGS),
        (Counts(rows=3, delivered=3, dropped={"phone_number": 2}), Status.WARNINGS),
        (Counts(rows=3, delivered=0, rejected={"job_lost": 3}), Status.FAILED),
        (Counts(rows=3, delivered=2), Status.FAILED),
        (Counts(rows=3, delivered=4), Status.FAILED),
        (Counts(rows=0), Status.FAILED),
    ],
)
def test_a_run_ends_as_its_numbers_say(counts: Counts, status: Status) -> None:
    found, message, hint = verdict(counts)
    assert found is status
    assert message
    assert bool(hint) == (status is not Status.SUCCESSFUL)
    found, message, hint = verdict(counts, missing=["Newslettter"])
    assert found is (Status.FAILED if status is Status.FAILED else Status.WARNINGS)
    assert found is Status.FAILED or ("Newslettter" in message and hint)


# what Klaviyo says of profiles

sayings = st.lists(
    st.tuples(st.integers(0, 60) | st.none(), st.sampled_from(["no", "unknown", "ü"])),
    unique_by=lambda saying: saying[0] if saying[0] is not None else object(),
)


@given(sayings)
def test_what_klaviyo_says_is_kept_whole_by_its_words(given_: list[tuple[int | None, str]]) -> None:
    end = JobEnded(job="j", completed=0, said=grouped(given_))
    [kept] = decode_events(encode_events([end]))
    assert isinstance(kept, JobEnded)
    assert sorted(kept.failures(), key=repr) == sorted(given_, key=repr)
    assert kept.failed == len(given_)


def test_a_job_that_failed_for_one_reason_takes_one_short_line() -> None:
    end = JobEnded(
        job="j", completed=0, said=grouped([(at, "Not a valid number.") for at in range(10_000)])
    )
    assert len(encode_events([end])) < 200
    assert end.failed == 10_000


def test_of_many_different_reasons_a_hundred_are_kept_and_no_row_is_lost() -> None:
    end = JobEnded(
        job="j",
        completed=0,
        said=grouped([(at, f"{at} is wrong" + "." * 200) for at in range(10_000)]),
    )
    assert [at for at, _ in end.failures()] == list(range(10_000))
    assert len(end.said) == 101
    assert len(encode_events([end])) < 100_000
