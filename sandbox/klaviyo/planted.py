"""Rows of a job that fail because a test wants them to.

An e-mail address with "+async-fail" in it becomes an import error, with "+async-fail-null" one
without id, code and title, as Klaviyo sometimes sends them (klaviyo-api-python issue 88).
Everything else is scripted by rules, `POST /_sandbox/rows`. A rule is JSON:

    where              attribute -> regular expression, searched in it: {"email": "^ada@"}. A row
                       must have all of these attributes, and all must match
    outcome            "import_error" (the default), or "refused": the whole job gets a 400
    status             of the refusal, 400 unless given: 409 with a pointer at a row
    times              for how many rows, null (the default) = always
    after              how many matching rows pass first, 0 unless given
    error              members that replace those of the error: {"code": "duplicate_profile",
                       "detail": "...", "title": null, "id": null, "source": {}}. "{row}" in
                       the source's pointer becomes the row's number. {"source": null} leaves
                       the source out
    original_payload   of an import error, as the setting of this name has it
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sandbox.klaviyo.checks import Finding, Table
from sandbox.klaviyo.settings import CHOICES

ASYNC_FAIL, ASYNC_FAIL_NULL = "+async-fail", "+async-fail-null"
NAMELESS = {"id": None, "code": None, "title": None}
OUTCOMES = frozenset({"import_error", "refused"})


@dataclass(slots=True, kw_only=True)
class Rule:
    where: Mapping[str, re.Pattern[str]]
    outcome: str = "import_error"
    status: int = 400
    times: int | None = None
    after: int = 0
    error: Mapping[str, Any] = field(default_factory=dict)
    original_payload: str | None = None

    @classmethod
    def read(cls, rule: Mapping[str, Any]) -> Rule:
        """A rule from JSON. Raises ValueError for what it cannot mean."""
        try:
            where = {name: re.compile(pattern) for name, pattern in rule["where"].items()}
            made = cls(**{**rule, "where": where})
        except (TypeError, KeyError, AttributeError, re.error) as exc:
            raise ValueError(f"not a rule: {exc}") from None
        if not where:
            raise ValueError("where: name at least one attribute")
        if made.outcome not in OUTCOMES:
            raise ValueError(f"outcome: one of {sorted(OUTCOMES)}")
        if made.original_payload not in CHOICES["original_payload"] | {None}:
            raise ValueError(f"original_payload: one of {sorted(CHOICES['original_payload'])}")
        return made

    def applies(self, attributes: Mapping[str, Any]) -> bool:
        """Whether this row fails; counts it."""
        if self.times == 0 or not all(
            pattern.search(str(attributes.get(name) or "")) and attributes.get(name)
            for name, pattern in self.where.items()
        ):
            return False
        if self.after > 0:
            self.after -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True

    def finding(self, row: int) -> Finding:
        field_name = next(iter(self.where))
        return Finding(
            check="refused" if self.outcome == "refused" else "planted",
            row=row,
            field=f"/attributes/{field_name}",
            detail="Invalid input.",
            status=self.status,
            overrides=self.error,
            original_payload=self.original_payload,
        )


class Planted:
    """The rules, and the rows that they or their address make fail."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []
        self._lock = threading.Lock()

    def add(self, rules: Sequence[Mapping[str, Any]]) -> None:
        read = [Rule.read(rule) for rule in rules]
        with self._lock:
            self._rules += read

    def clear(self) -> None:
        with self._lock:
            self._rules = []

    def may_touch(self, emails: Sequence[str | None]) -> bool:
        """Whether any of these rows could fail."""
        return bool(self._rules) or ASYNC_FAIL in " ".join(filter(None, emails))

    def findings(self, table: Table) -> Iterator[Finding]:
        """The rows that fail. The first rule that matches and is not used up decides."""
        emails = table.column("email")
        if not self.may_touch(emails):
            return
        for row, email in enumerate(emails):
            if email is not None and ASYNC_FAIL in email:
                yield Finding(
                    check="planted",
                    row=row,
                    field="/attributes/email",
                    detail="Invalid email address",
                    overrides=NAMELESS if ASYNC_FAIL_NULL in email else {},
                )
        with self._lock:
            for row, attributes in enumerate(table.attributes):
                found = next((rule for rule in self._rules if rule.applies(attributes)), None)
                if found is not None:
                    yield found.finding(row)
