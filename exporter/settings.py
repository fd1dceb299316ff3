"""The app's settings: read from the environment once, all problems reported at a time.

Each setting is one field below: its name, default, rule and meaning. docs/configuration.md is made
from these fields, and a test compares the two.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from exporter.errors import SettingsWrong
from exporter.klaviyo.base_url import BASE_URL, REVISION, parse_base_url, parse_revision
from exporter.planning.limits import PlanLimits
from exporter.sending.limits import SendLimits

HINT = "Correct these app settings. docs/configuration.md explains each."


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingSpec:
    """What a setting is called, how it is read, and what it means.

    default: None if it must be set.
    """

    name: str
    default: str | None
    parse: Callable[[str], Any]
    meaning: str


def _setting(name: str, default: str | None, parse: Callable[[str], Any], meaning: str) -> Any:
    """Declare a field that is read from the environment."""
    spec = SettingSpec(name=name, default=default, parse=parse, meaning=meaning)
    if default is None:
        return field(metadata={"setting": spec})
    return field(default_factory=lambda: parse(default), metadata={"setting": spec})


# How settings are read


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
    # Microsoft, "Naming and Referencing Containers, Blobs, and Metadata" and "Naming Queues".
    if not (3 <= len(text) <= 63 and re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", text)):
        raise ValueError(
            "must be a name of a container or queue: 3 to 63 of a-z, 0-9 and single hyphens, "
            "with none at either end"
        )
    return text


def _secret_name(text: str) -> str:
    # Imported late: pydantic takes a quarter of a second, which a cold start need not wait for.
    from exporter.definitions.connection import VAULT_NAME_PATTERN

    if text and not re.fullmatch(VAULT_NAME_PATTERN, text):
        raise ValueError(
            "must be a secret's name, not its value: 1 to 127 letters, digits and hyphens"
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


def _plan_limits(text: str) -> PlanLimits:
    return PlanLimits(memory_mb=_between(64, 4096, int)(text))


# The settings


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLimits:
    """How the app uses time, memory and Klaviyo's limits. Handed on whole."""

    settle_s: float = _setting(
        "SETTLE_SECONDS",
        "120",
        _between(0, 3600),
        "A snapshot counts as complete when none of its files changed for this long.",
    )
    patience_s: float = _setting(
        "PATIENCE_SECONDS",
        "3600",
        _between(0, 86_400),
        "How long after the last change missing or empty partitions are waited for.",
    )
    step_s: float = _setting(
        "STEP_SECONDS",
        "480",
        _between(1, 1500),
        "A step of a run ends itself after this time. More than 480 needs a functionTimeout in "
        "host.json of four times as much, since planning may last three times as long.",
    )
    pacer_share: float = _setting(
        "KLAVIYO_SHARE",
        "1",
        _between(0.01, 1),
        "The part of Klaviyo's limits that runs may use. Lower it when other tools use the "
        "account.",
    )
    plan: PlanLimits = _setting(
        "MEMORY_MB",
        "96",
        _plan_limits,
        "DuckDB's memory. Rows beyond it go to disk, but each typed property takes "
        "about 0.5 MB, and planning adds 0.2 MB for each column beyond 150. The "
        "process needs about 120 MB more. The templates set a quarter of an instance's memory.",
    )
    disk_mb: float = _setting(
        "DISK_MB",
        "0",
        _between(0, 10_000_000),
        "MB of the disk under WORK_FOLDER; 0: what its file system says. The templates set "
        "800, which is what an instance of Flex Consumption has. A plan that does not fit in "
        "seven eighths of it ends its run before anything is sent.",
    )
    runs_kept_days: int = _setting(
        "RUNS_KEPT_DAYS",
        "365",
        _between(1, 3650, int),
        "A run is deleted, with its report, this long after it ended. The newest run of an export "
        "stays.",
    )
    rejected_kept_days: int = _setting(
        "REJECTED_KEPT_DAYS",
        "30",
        _between(1, 3650, int),
        "A run's rejected.csv, which holds personal data, left_out.csv and duplicates.csv are "
        "deleted this long after it ended.",
    )
    no_snapshot_days: int = _setting(
        "NO_SNAPSHOT_DAYS",
        "8",
        _between(0, 365, int),
        "A segment of an active export without a new snapshot for this long raises a notice. 0 for "
        "never.",
    )
    setbacks: int = 12  # failures in a row without progress; their waits make half an hour
    lease_s: float = 60.0  # how long a dead instance keeps its account from others
    send: SendLimits = field(default_factory=SendLimits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How this deployment is set up. Holds no secret: the Klaviyo keys are in the vault."""

    key_vault_url: str = _setting(
        "KEY_VAULT_URL", None, _url, "The vault that holds the Klaviyo keys."
    )
    snapshots_container: str = _setting(
        "SNAPSHOTS_CONTAINER",
        "segments",
        _container,
        "The container that Customer Insights writes to.",
    )
    state_container: str = _setting(
        "STATE_CONTAINER",
        "exporter-state",
        _container,
        "Where connections, exports and runs are kept.",
    )
    steps_queue: str = _setting(
        "STEPS_QUEUE", "export-steps", _container, "The queue that carries the work."
    )
    limits: StepLimits
    notice_webhook_secret: str = _setting(
        "NOTICE_WEBHOOK_SECRET",
        "",
        _secret_name,
        "The secret in the vault that holds the https address which notices are posted to "
        "(Teams, Slack).",
    )
    trust_platform_identity: bool = _setting(
        "TRUST_PLATFORM_IDENTITY",
        "false",
        _flag,
        "Whether people are who App Service authentication says, where it is on. Else the API "
        "refuses everybody.",
    )
    sign_in_client_id: str = _setting(
        "SIGN_IN_CLIENT_ID",
        "",
        str,
        "The app registration that people sign in to. By it the app knows that authentication is "
        "on where the platform sets no flag of its own.",
    )
    work_folder: Path = _setting(
        "WORK_FOLDER",
        # One for each user of the machine.
        str(Path(tempfile.gettempdir()) / f"segment-exporter-{getattr(os, 'getuid', str)()}"),
        Path,
        "Local disk for the plans of open runs, closed to other users.",
    )
    klaviyo_base_url: str = _setting(
        "KLAVIYO_BASE_URL",
        BASE_URL,
        parse_base_url,
        "Klaviyo's API. Another address only in tests.",
    )
    klaviyo_revision: str = _setting(
        "KLAVIYO_REVISION",
        REVISION,
        parse_revision,
        "The dated API revision that the app speaks. Klaviyo serves each for two years.",
    )
    klaviyo_fall_forward: bool = _setting(
        "KLAVIYO_FALL_FORWARD",
        "false",
        _flag,
        "Whether Klaviyo may answer as a newer revision once it has retired this one. Its answers "
        "may then have another form. Else runs fail and say so.",
    )


def specs() -> Iterator[SettingSpec]:
    """Return every setting, in the order of the documentation."""
    for each in fields(Settings):
        yield from _specs_of(fields(StepLimits) if each.name == "limits" else (each,))


def setting(name: str, environ: Mapping[str, str]) -> Any:
    """Read and check one setting that has a default. Raises SettingsWrong."""
    [spec] = [spec for spec in specs() if spec.name == name]
    try:
        return spec.parse(environ.get(name) or spec.default or "")
    except ValueError as exc:
        raise SettingsWrong(f"{name} {exc}", hint=HINT) from exc


def from_env(environ: Mapping[str, str]) -> Settings:
    """Read and check every setting. Raises SettingsWrong with all problems."""
    problems: list[str] = []
    limits = _read(StepLimits, environ, problems)
    values = _read(Settings, environ, problems)
    if problems:
        raise SettingsWrong("; ".join(problems), hint=HINT)
    return Settings(limits=StepLimits(**limits), **values)


def _read(kind: type, environ: Mapping[str, str], problems: list[str]) -> dict[str, Any]:
    """Read the fields that are set, by field name; what is wrong goes to `problems`."""
    values: dict[str, Any] = {}
    for each in fields(kind):
        for spec in _specs_of((each,)):
            text = environ.get(spec.name)
            if not text and spec.default is None:
                problems.append(f"{spec.name} is not set")
            elif text:
                try:
                    values[each.name] = spec.parse(text)
                except ValueError as exc:
                    problems.append(f"{spec.name} {exc}")
    return values


def _specs_of(declared: tuple[Field[Any], ...]) -> Iterator[SettingSpec]:
    for each in declared:
        if "setting" in each.metadata:
            yield each.metadata["setting"]
