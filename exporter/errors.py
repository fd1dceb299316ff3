"""Every error of the exporter, named by what happened and caught by what to do next.

    ExporterError(message, hint)      hint: the one thing that an operator can do
      Transient(retry_after_s)        try the same step again later
        LeaseHeld                     another instance works for this Klaviyo account
        RateLimited                   Klaviyo: 429
        KlaviyoUnavailable            Klaviyo: 5xx, time-out, dropped connection, an edge's page
          Unavailable *               the same, with its row of the retry table
      Terminal                        this run cannot succeed unchanged
        ConfigError                   settings, secrets, permissions: a person must act
          SettingsWrong               the app's settings cannot be used
          MappingError                no such column, or no such attribute in Klaviyo
          SecretUnavailable           Key Vault
          DiskTooSmall                the local disk cannot hold the plan
          NoSnapshot                  no snapshot of the export's segments is complete
          DocumentUnreadable          a document of our own was damaged, or edited by hand
          KeyRefused, ScopeMissing    Klaviyo: 401, 403
        RowsLost                      rows were read that did not come out again
        SnapshotUnreadable            not CSV or Parquet, damaged, no rows that can be understood
        RunCanceled                   a person withdrew the export or canceled the run
        KlaviyoRejected               Klaviyo gave an answer that repeating does not change
          ListGone, RevisionRetired   Klaviyo: 404, 410
          NotFound *                  Klaviyo: 404, for anything but a list
          BatchTooLarge               Klaviyo: 413
          BatchRefused                Klaviyo: 400 for a batch; names rows, or nothing
      Refused                         nothing of what a person asked for was done
        NotAllowed                    their role does not permit it
        Unknown                       there is no such connection, export or run
        Invalid(problems)             values that cannot be used; each problem names its field
        Conflict                      the current state forbids it: in use, paused, name taken
          EditConflict                somebody else changed it since it was read
        TookTooLong                   the answer was not there in the time that a request may take
      BlobTooLarge                    a blob has more bytes than may be read at once
      PartitionChanged                a blob differs from the manifest: start with a new manifest
      StoreMoved                      a conditional write lost: somebody else was faster
        AlreadyThere                  a document to be created exists
      NotThere *                      a file to be downloaded does not exist
      NotASnapshot *                  a blob that belongs to no snapshot: safe to skip

* Beside the code that raises it: klaviyo/backoff.py (Unavailable), klaviyo/statuses.py (NotFound),
storage/protocols.py (NotThere), snapshots/paths.py (NotASnapshot). All others are here.

Messages and hints go to logs, pages and notices. They never hold a key, address, row or body.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


class ExporterError(Exception):
    """The root of all our errors. `hint` is the one next action for an operator."""

    hint = ""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or type(self).hint


def name_of(kind: type[ExporterError]) -> str:
    """Return an error's name for programs: "edit-conflict" for EditConflict."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", kind.__name__).lower()


class Transient(ExporterError):
    """Try the same step again, after `retry_after_s` if the other side named a time."""

    def __init__(self, message: str, *, retry_after_s: float | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class Terminal(ExporterError):
    """This run cannot succeed unchanged."""


class LeaseHeld(Transient):
    """Another instance is working for this Klaviyo account."""


class RateLimited(Transient):
    """Klaviyo answered 429. `retry_after_s` is what Klaviyo asked for, None if it named no time."""

    hint = (
        "Other tools use the account's quota, or Klaviyo lowered it. Run the export again when "
        "they are quiet, which is harmless, and set KLAVIYO_SHARE to the part that they leave."
    )


class KlaviyoUnavailable(Transient):
    """Klaviyo, or its edge, could not answer. The request may have been carried out or not."""

    hint = "Look at status.klaviyo.com. Run the export again when Klaviyo works, which is harmless."


class ConfigError(Terminal):
    """A setting, secret or permission is missing: a person must act."""


class SettingsWrong(ConfigError):
    """The app's settings cannot be used: nothing works before they are corrected."""


class MappingError(ConfigError):
    """The export's mapping does not fit the snapshot or Klaviyo."""


class SecretUnavailable(ConfigError):
    """The key could not be read from Key Vault."""


class DiskTooSmall(ConfigError):
    """The local disk cannot hold the plan of the snapshot."""

    hint = (
        "Map fewer columns, or make the segment smaller. Else name a larger disk in WORK_FOLDER, "
        "such as a mounted file share, and set DISK_MB to its size. Flex Consumption has 800 MB "
        "an instance whatever its memory."
    )


class NoSnapshot(ConfigError):
    """No snapshot of the export's segments is complete."""


class DocumentUnreadable(ConfigError):
    """A document of our own state was damaged, edited by hand, or written by another version."""

    hint = "Correct or restore the document."


class KeyRefused(ConfigError):
    """Klaviyo refused the API key (401, or 400 for a request without a body)."""

    hint = (
        "Create a private key in Klaviyo with the scopes that the README lists, and store it: in "
        "the app with `connections rotate-key CONNECTION`. `push` takes it from KLAVIYO_API_KEY."
    )


class ScopeMissing(ConfigError):
    """The key is valid, but a scope is missing (403)."""

    hint = (
        "The scopes of a Klaviyo key cannot be changed. Create a new key with accounts:read, "
        "lists:read, lists:write, profiles:read and profiles:write (and data-privacy:write, to "
        "have Klaviyo delete people), and store it: in the app with `connections rotate-key "
        "CONNECTION`. `push` takes it from KLAVIYO_API_KEY."
    )


class RowsLost(Terminal):
    """Fewer or more rows came out of a file than went in. This is a defect: nothing may be sent."""

    hint = (
        "Run the export again. If it happens again, report it to the project, "
        "with the run's report."
    )


class SnapshotUnreadable(Terminal):
    """A partition is damaged, or not a table."""


class RunCanceled(Terminal):
    """A person withdrew the connection or export, or canceled the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateInfo:
    """What an answer's headers say of its endpoint's steady window; None where they say nothing."""

    limit: int | None
    remaining: int | None
    reset_s: float | None


class KlaviyoRejected(Terminal):
    """Klaviyo gave an answer that repeating the request would not change."""

    rate: RateInfo | None = None  # as the answer's headers told it

    def __init__(self, message: str, *, status: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


class ListGone(KlaviyoRejected):
    """The list (or job) does not exist in this account (404)."""

    hint = (
        "Choose a list that exists in this Klaviyo account. "
        "Its ID is in the list's address and settings."
    )


class RevisionRetired(KlaviyoRejected):
    """Klaviyo has retired the API revision that we use (410)."""

    hint = "Upgrade the app, or set KLAVIYO_REVISION to a revision that Klaviyo still serves."


class BatchTooLarge(KlaviyoRejected):
    """The body was over Klaviyo's limit (413): split it."""


@dataclass(frozen=True, slots=True)
class RowRefusal:
    """One row of a batch that Klaviyo named in a 400. `index` counts from 0 within the request.

    attribute: the end of the pointer, "" for the whole row. is_duplicate: see BatchRefused.
    """

    index: int
    attribute: str
    reason: str
    is_duplicate: bool = False


class BatchRefused(KlaviyoRejected):
    """Klaviyo accepted nothing of a batch (400). `rows` are the rows that it named, if any.

    words: what Klaviyo said where it named no row, for the row that turns out to be the cause.
    is_duplicate: an identifier of the row belongs to another profile than the others of the row.
    """

    def __init__(
        self,
        message: str,
        *,
        rows: Sequence[RowRefusal] = (),
        words: str = "",
        is_duplicate: bool = False,
        status: int = 400,
    ) -> None:
        super().__init__(message, status=status)
        self.rows = tuple(rows)
        self.words = words
        self.is_duplicate = is_duplicate


class Refused(ExporterError):
    """Nothing of what a person asked for was done."""


class NotAllowed(Refused):
    """The person's role does not permit it."""

    hint = "Ask an administrator for the role, or to share the connection with contributors."


class Unknown(Refused):
    """There is no such connection, export or run."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one field that a person gave. `field` is a path such as schedule.cron."""

    field: str
    message: str


class Invalid(Refused):
    """Values that cannot be used. `problems` has one entry for each field."""

    hint = "Correct these fields. Nothing was saved."

    def __init__(self, *problems: Problem, hint: str = "") -> None:
        message = "; ".join(f"{each.field}: {each.message}" for each in problems)
        super().__init__(message, hint=hint)
        self.problems = problems


class Conflict(Refused):
    """The current state forbids it."""


class EditConflict(Conflict):
    """Somebody else changed the document since it was read."""

    hint = "Read it again and repeat your change."


class TookTooLong(Refused):
    """The answer was not there in the time that a request may take."""

    hint = (
        "Run the command without --app, straight on the app's store: there it may take as long as "
        "it needs."
    )


class BlobTooLarge(ExporterError):
    """A blob has more bytes than may be read at once."""


class PartitionChanged(ExporterError):
    """A blob of the manifest was replaced or removed since the manifest was frozen."""


class StoreMoved(ExporterError):
    """A document changed since it was read: the conditional write was refused."""


class AlreadyThere(StoreMoved):
    """A document to be created exists."""


def plain_words(said: str) -> str:
    """Say what a value must be without the words of the library that checked it."""
    said = re.sub(r", unable to .*", "", said.removeprefix("Value error, "))
    said = re.sub(r"^(?:Input|String|List|Dictionary) should ", "must ", said)
    return said.replace("must be a valid string", "must be text")
