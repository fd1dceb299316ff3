"""Every error of the exporter, named by where it happens and caught by what to do next.

    ExporterError(message, hint)        hint: the one thing that an operator can do
      Transient(retry_after_s)          try the same step again later
        RateLimited                     Klaviyo: 429
        KlaviyoUnavailable              Klaviyo: 5xx, time-outs, dropped connections, an edge page instead of an answer
          Unavailable *                 the same, with its row of the retry table
        LeaseHeld                       another instance works for this Klaviyo account
      Terminal                          this run cannot succeed unchanged
        ConfigError                     settings, secrets, permissions: a person must act
          NoSnapshot                    nothing of these segments has arrived yet
          DocumentUnreadable            a document of our own was damaged, or edited by hand
          KeyRefused, ScopeMissing      Klaviyo: 401, 403
          SecretUnavailable             Key Vault
          MappingError                  a column that is not there, an attribute that Klaviyo does not have
        SnapshotUnreadable              not CSV or Parquet, damaged, no rows that could be understood
        RowsLost                        rows were read that did not come out again: the run must not go on
        KlaviyoRejected                 an answer that no repetition changes
          ListGone, RevisionRetired     Klaviyo: 404, 410
          NotFound *                    Klaviyo: 404, and not about a list
          BatchRefused                  Klaviyo: 400 for a batch; names rows, or nothing (sending repairs it)
          BatchTooLarge                 Klaviyo: 413
        RunCanceled                     withdrawn or cancelled by a person
      Refused                           what a person asked for is not done, and nothing of it is
        NotAllowed                      their role does not permit it
        Unknown                         there is no such connection, export or run
        Invalid(problems)               a field's value will not do; each problem names its field
        Conflict                        not as things stand: still used, paused, name taken
          EditConflict                  somebody else changed it since it was read
      NotThere *                        a file to be downloaded does not exist
      NotASnapshot *                    a blob that is no part of a snapshot: safe to skip
      BlobTooLarge                      a blob has more bytes than are read at once
      PartitionChanged                  a blob is not the one of the manifest: start over with a new manifest
      StoreMoved, AlreadyThere          a conditional write lost: someone else was faster, leave quietly

* Beside what raises them: Unavailable and NotFound in klaviyo_answers.py, NotThere in store.py, NotASnapshot in
snapshots.py. All others are here.

Messages and hints never hold a key, an address, a row or a body: they go to logs, pages and notices.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


class ExporterError(Exception):
    """Anything that the exporter says about itself; `hint` is the one next action for an operator."""

    hint = ""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or type(self).hint


def name_of(kind: type[ExporterError]) -> str:
    """The name of an error for programs: "edit-conflict" of EditConflict."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", kind.__name__).lower()


class Transient(ExporterError):
    """Try the same step again, no sooner than `retry_after_s` when the other side named a time."""

    def __init__(self, message: str, *, retry_after_s: float | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class Terminal(ExporterError):
    """This run cannot succeed unchanged."""


class LeaseHeld(Transient):
    """Another instance is working for this Klaviyo account."""


class RateLimited(Transient):
    """Klaviyo answered 429; `retry_after_s` is its own word, None when it gave none."""

    hint = (
        "Other tools use the account's quota, or Klaviyo lowered it: run the export again when they are quiet, which "
        "is harmless, and set KLAVIYO_SHARE to the part that they leave."
    )


class KlaviyoUnavailable(Transient):
    """Klaviyo, or what stands before it, could not answer; the request may or may not have been taken."""

    hint = (
        "Look at status.klaviyo.com; run the export again when Klaviyo is well, which is harmless."
    )


class ConfigError(Terminal):
    """A setting, secret or permission is missing: a person must act."""


class MappingError(ConfigError):
    """The export's mapping does not fit the snapshot or Klaviyo."""


class SecretUnavailable(ConfigError):
    """The key could not be read from Key Vault."""


class NoSnapshot(ConfigError):
    """No complete snapshot of the export's segments is there."""


class DocumentUnreadable(ConfigError):
    """A document of our own state was damaged, edited by hand, or written by another version."""

    hint = "Correct or restore the document."


class KeyRefused(ConfigError):
    """Klaviyo refused the API key (401, or 400 for a request without a body)."""

    hint = (
        "Create a private key with the scopes of the README in Klaviyo and store it for this connection; "
        "`push` takes it from KLAVIYO_API_KEY."
    )


class ScopeMissing(ConfigError):
    """The key is good but may not do this (403)."""

    hint = (
        "Scopes of a Klaviyo key cannot be changed: create a new key with accounts:read, lists:read, lists:write, "
        "profiles:read and profiles:write (data-privacy:write, too, to have Klaviyo delete people), and store it for "
        "this connection; `push` takes it from KLAVIYO_API_KEY."
    )


class RowsLost(Terminal):
    """Fewer or more rows came out of a file than went into it. It never happens, and if so nothing may be sent."""

    hint = "Run the export again. If it happens again, report it to the project, with the run's report."


class SnapshotUnreadable(Terminal):
    """A partition is damaged or no table at all."""


class RunCanceled(Terminal):
    """A person withdrew the connection or export, or cancelled the run."""


class KlaviyoRejected(Terminal):
    """Klaviyo gave an answer that repeating the request would not change."""

    rate: RateInfo | None = None  # what the answer said of the steady window

    def __init__(self, message: str, *, status: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


class ListGone(KlaviyoRejected):
    """The list (or job) does not exist in this account (404)."""

    hint = "Choose a list that exists in this Klaviyo account; its ID is in the list's address and settings."


class RevisionRetired(KlaviyoRejected):
    """Klaviyo retired the API revision that we speak (410)."""

    hint = "Upgrade the exporter, or set KLAVIYO_REVISION to a revision that Klaviyo still serves."


class BatchTooLarge(KlaviyoRejected):
    """The body was over Klaviyo's limit (413): split it."""


@dataclass(frozen=True, slots=True)
class RowRefusal:
    """One row of a batch that Klaviyo named in a 400. `index` counts from 0 within the request."""

    index: int
    attribute: str
    reason: str


class BatchRefused(KlaviyoRejected):
    """Klaviyo took nothing of a batch (400). `rows` are those it named: all, some, or none.

    words: Klaviyo's own where it named none, for the row that turns out to be the one.
    """

    def __init__(self, message: str, *, rows: Sequence[RowRefusal] = (), words: str = "") -> None:
        super().__init__(message, status=400)
        self.rows = tuple(rows)
        self.words = words


class Refused(ExporterError):
    """What a person asked for is not done, and nothing of it is."""


class NotAllowed(Refused):
    """The person's role does not permit it."""

    hint = "Ask an administrator for the role, or to share the connection with contributors."


class Unknown(Refused):
    """There is no such connection, export or run."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one field of what a person gave. `field` is a path such as schedule.cron."""

    field: str
    message: str


class Invalid(Refused):
    """Values that will not do. `problems` has one entry for each field."""

    hint = "Correct these fields; nothing was saved."

    def __init__(self, *problems: Problem, hint: str = "") -> None:
        super().__init__("; ".join(f"{each.field}: {each.message}" for each in problems), hint=hint)
        self.problems = problems


class Conflict(Refused):
    """Not as things stand."""


class EditConflict(Conflict):
    """Somebody else changed the document since it was read."""

    hint = "Read it again and repeat your change on what is there now."


class BlobTooLarge(ExporterError):
    """A blob has more bytes than are read at once."""


class PartitionChanged(ExporterError):
    """A blob of the manifest was replaced or removed since the manifest was frozen."""


class StoreMoved(ExporterError):
    """A document changed since it was read: the conditional write was refused."""


class AlreadyThere(StoreMoved):
    """A document to be created exists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateInfo:
    """The steady window of the endpoint that answered, in Klaviyo's words; None where it says nothing of it."""

    limit: int | None
    remaining: int | None
    reset_s: float | None
