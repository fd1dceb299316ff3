"""Exports as a file: find what must change to make them as the file says, and write the file.

    exports:
      - id: high-value                  # without one, the export of this name, or a new one
        name: High value customers
        connection: main                # null: detached
        list: High value                # a list's id, or its name
        segments: [HighValue]
        mapping: {email: EMail}
        schedule: {on: arrival}         # the default
        max_profiles: 100000            # default: no maximum
        keep_rejected_rows: true        # default: false
        reconcile: true                 # default: false
        paused: true                    # default: not changed; false for a new one

`plan` reads everything and writes nothing. It raises Invalid, with all problems, before the first
change. Exports that are not in the file stay, unless they are to be pruned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from exporter.cli.yaml_files import dump_yaml, parse_yaml
from exporter.errors import Invalid, NotAllowed, Problem
from exporter.management.forms import ExportForm, NewExportForm, parse
from exporter.management.roles import Action
from exporter.management.views import ConnectionView, ExportView, ListView

EXPORTS = "exports"
LIST = "list"


class Exports(Protocol):
    """Where exports are kept."""

    def exports(self) -> list[ExportView]: ...
    def connections(self) -> list[ConnectionView]: ...
    def lists(self, connection_id: str) -> list[ListView]: ...
    def create_export(self, form: NewExportForm) -> ExportView: ...
    def edit_export(self, export_id: str, form: ExportForm, *, etag: str) -> ExportView: ...
    def pause_export(self, export_id: str, *, paused: bool) -> ExportView: ...
    def remove_export(self, export_id: str, *, etag: str) -> None: ...


class Kind(StrEnum):
    CREATE = "create"
    EDIT = "edit"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """What becomes of one export. `fields`: (path, before, after) of what differs."""

    kind: Kind
    name: str
    fields: tuple[tuple[str, Any, Any], ...]
    form: NewExportForm | None = None  # None: it is removed
    seen: ExportView | None = None  # None: it is made

    def to_json(self) -> dict[str, Any]:
        """Give the edit as a program reads it."""
        fields = [
            {"field": path, "before": before, "after": after} for path, before, after in self.fields
        ]
        export = self.seen.id if self.seen else None
        return {"change": str(self.kind), "export": export, "name": self.name, "fields": fields}


# Reading and writing the file


def read(text: str) -> list[dict[str, Any]]:
    """Read the exports of a file. Raises Invalid."""
    document = parse_yaml(text, "file")
    is_right = isinstance(document, dict) and set(document) == {EXPORTS}
    if not is_right or not isinstance(document[EXPORTS], list):
        words = "should hold the one key `exports:`, and under it a list of exports"
        raise Invalid(Problem("file", words))
    exports: list[dict[str, Any]] = document[EXPORTS]
    wrong = [number for number, each in enumerate(exports, 1) if not isinstance(each, dict)]
    if wrong:
        words = "should be keys and values"
        raise Invalid(*(Problem(f"exports.{number}", words) for number in wrong))
    return exports


def dump(views: Sequence[ExportView]) -> str:
    """Write the file of these exports. To apply it to them changes nothing."""
    listed = [{"id": view.id, **_document(_form_of(view))} for view in views]
    return dump_yaml({EXPORTS: listed}, width=120)


# Comparing


def plan(
    app: Exports, documents: Sequence[Mapping[str, Any]], *, prune: bool = False
) -> list[Edit]:
    """Find what must change, in the order of doing: removals, then the order of the file.

    Writes nothing. Raises Invalid with every problem of every export, and NotAllowed.
    """
    now = _Now(app)
    drafts, problems = list[_Draft](), list[Problem]()
    for number, document in enumerate(documents, 1):
        label = str(document.get("id") or document.get("name") or f"exports.{number}")[:120]
        draft = _Draft(label=label, seen=now.find(document))
        drafts.append(draft)
        try:
            draft.form = now.form(document, draft.seen)
        except Invalid as exc:
            problems += [Problem(f"{label}.{each.field}", each.message) for each in exc.problems]
    kept = {draft.seen.id for draft in drafts if draft.seen}
    removed = [view for view in now.views if prune and view.id not in kept]
    staying = [view for view in now.views if view not in removed]
    problems += [*_exports_twice(drafts), *_names_taken(drafts, staying)]
    if problems:
        raise Invalid(*problems)
    edits = [_removal(view) for view in removed]
    edits += [edit for draft in drafts if (edit := _edit(draft))]
    for edit in edits:
        _check_may(edit)
    return edits


def apply(app: Exports, edits: Sequence[Edit]) -> Iterator[ExportView | None]:
    """Make the edits one by one; yields what each saved.

    Raises EditConflict for an export that changed since.
    """
    for edit in edits:
        if edit.seen is None:
            assert edit.form is not None
            yield app.create_export(edit.form)
        elif edit.form is None:
            app.remove_export(edit.seen.id, etag=edit.seen.etag)
            yield None
        else:
            yield _save(app, edit.seen, edit.form)


def _save(app: Exports, seen: ExportView, form: NewExportForm) -> ExportView:
    """Save the settings, then resume. But pause first: no run may start on unchecked settings."""
    etag, saved = seen.etag, seen
    if form.paused and not seen.paused:
        saved = app.pause_export(seen.id, paused=True)
        etag = saved.etag
    if _settings(form) != _settings(_form_of(seen)):
        saved = app.edit_export(seen.id, _settings(form), etag=etag)
    if seen.paused and not form.paused:
        saved = app.pause_export(seen.id, paused=False).model_copy(
            update={"warnings": saved.warnings}
        )
    return saved


def find_list(lists: Sequence[ListView], wanted: str) -> str:
    """Find the ID of a list that is given by ID or name. Raises Invalid."""
    if any(each.id == wanted for each in lists):
        return wanted
    named = [each.id for each in lists if each.name == wanted]
    named = named or [each.id for each in lists if each.name.casefold() == wanted.casefold()]
    if len(named) == 1:
        return named[0]
    if named:
        raise Invalid(
            Problem(LIST, f"several lists have this name. Give one of the IDs {', '.join(named)}.")
        )
    raise Invalid(
        Problem(
            LIST,
            f"the account has no list {wanted[:120]}. Give an ID or a name as Klaviyo shows it.",
        )
    )


@dataclass(slots=True, kw_only=True)
class _Draft:
    """One export of the file: what there is of it now, and what it asks for (None: it is wrong)."""

    label: str
    seen: ExportView | None
    form: NewExportForm | None = None


class _Now:
    """What there is now, asked for once."""

    def __init__(self, app: Exports) -> None:
        self._app = app
        self.views = [view for view in app.exports() if not view.problem]
        self._connections = [connection.id for connection in app.connections()]
        self._lists: dict[str, list[ListView]] = {}

    def find(self, document: Mapping[str, Any]) -> ExportView | None:
        """Find the export that a document is about."""
        given_id, name = document.get("id"), str(document.get("name", "")).strip().casefold()
        for view in self.views:
            if view.id == given_id or (given_id is None and view.name.casefold() == name):
                return view
        return None

    def form(self, document: Mapping[str, Any], seen: ExportView | None) -> NewExportForm:
        """Read a document. Raises Invalid."""
        given = dict(document)
        if "list_id" in given:
            raise Invalid(Problem("list_id", "is called list here, and takes an ID or a name"))
        wanted = given.pop(LIST, None)
        if not isinstance(wanted, str) or not wanted.strip():
            raise Invalid(Problem(LIST, "is missing. Give the ID or the name of a Klaviyo list."))
        given["list_id"] = self._list_id(given.get("connection"), wanted, seen)
        if seen:
            given = {"paused": seen.paused, **given, "id": seen.id}
        try:
            return parse(NewExportForm, given)
        except Invalid as exc:
            raise Invalid(*map(_as_in_the_file, exc.problems)) from None

    def _list_id(self, connection: Any, wanted: str, seen: ExportView | None) -> str:
        """Find the list's ID. A list that stays as it is needs no Klaviyo."""
        if connection is None:
            return wanted
        if connection not in self._connections:
            words = f"You may use no connection with this ID: {connection!s:.64}"
            raise Invalid(Problem("connection", words))
        if seen and (seen.connection, seen.list_id) == (connection, wanted):
            return wanted
        if connection not in self._lists:
            self._lists[connection] = self._app.lists(connection)
        return find_list(self._lists[connection], wanted)


def _as_in_the_file(problem: Problem) -> Problem:
    return Problem(LIST, problem.message) if problem.field == "list_id" else problem


def _exports_twice(drafts: Sequence[_Draft]) -> Iterator[Problem]:
    """Find exports and IDs that are in the file twice."""
    seen: set[str] = set()
    for draft in drafts:
        form_id = draft.form.id if draft.form else None
        export_id = draft.seen.id if draft.seen else form_id
        if export_id in seen:
            yield Problem(draft.label, "is in the file twice")
        if export_id:
            seen.add(export_id)


def _names_taken(drafts: Sequence[_Draft], staying: Sequence[ExportView]) -> Iterator[Problem]:
    """Find names that are in the file twice, or belong to an export that stays."""
    names = Counter(draft.form.name.casefold() for draft in drafts if draft.form)
    for draft in drafts:
        if draft.form is None:
            continue
        name, own = draft.form.name.casefold(), draft.seen.id if draft.seen else None
        others = (view.name.casefold() for view in staying if view.id != own)
        if names[name] > 1 or name in others:
            yield Problem(f"{draft.label}.name", "is taken. Choose another name.")


def _edit(draft: _Draft) -> Edit | None:
    """Give what becomes of an export, None for nothing."""
    form, seen = draft.form, draft.seen
    assert form is not None
    before = _document(_form_of(seen)) if seen else {}
    fields = tuple(_differences(before, _document(form)))
    if seen and not fields:
        return None
    kind = Kind.EDIT if seen else Kind.CREATE
    return Edit(kind=kind, name=form.name, fields=fields, form=form, seen=seen)


def _removal(view: ExportView) -> Edit:
    fields = tuple(_differences(_document(_form_of(view)), {}))
    return Edit(kind=Kind.REMOVE, name=view.name, fields=fields, seen=view)


def _check_may(edit: Edit) -> None:
    """Refuse before the first change; the app checks each again."""
    action = Action.EDIT_EXPORT if edit.kind is Kind.EDIT else Action.REMOVE_EXPORT
    if edit.seen and action.name.lower() not in edit.seen.may:
        raise NotAllowed(f"You may not {edit.kind} {edit.name}.")


def _form_of(view: ExportView) -> NewExportForm:
    """Give the form that would make an export as it is."""
    kept = {name: getattr(view, name) for name in NewExportForm.model_fields}
    return NewExportForm.model_construct(**kept)


def _settings(form: NewExportForm) -> ExportForm:
    return ExportForm.model_construct(
        **{name: getattr(form, name) for name in ExportForm.model_fields}
    )


def _document(form: NewExportForm) -> dict[str, Any]:
    """Write a form as in a file, without defaults."""
    dumped = form.model_dump(mode="json", exclude={"id"}, exclude_defaults=True)
    dumped["schedule"] = {"on": form.schedule.on, **dumped.get("schedule", {})}
    return {
        LIST if name == "list_id" else name: dumped[name]
        for name in NewExportForm.model_fields
        if name in dumped
    }


def _differences(before: Any, after: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Give (path, before, after) of each value that differs; None for what is not there."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys([*before, *after]):
            yield from _differences(before.get(key), after.get(key), f"{path}.{key}".lstrip("."))
    elif before is None and isinstance(after, dict) and after:
        yield from _differences({}, after, path)
    elif after is None and isinstance(before, dict) and before:
        yield from _differences(before, {}, path)
    elif before != after:
        yield path, before, after


def as_text(edits: Sequence[Edit]) -> str:
    """Write the edits for a person: a line an export, and one a field."""
    signs = {Kind.CREATE: "+", Kind.EDIT: "~", Kind.REMOVE: "-"}
    lines = []
    for edit in edits:
        known_as = f" ({edit.seen.id})" if edit.seen else ""
        lines.append(f"{signs[edit.kind]} {edit.kind} {edit.name}{known_as}")
        lines += [f"    {path}: {_change(before, after)}" for path, before, after in edit.fields]
    return "\n".join(lines) or "Nothing to change."


def _change(before: Any, after: Any) -> str:
    if before is None:
        return _shown(after)
    return f"{_shown(before)} -> {_shown(after)}"


def _shown(value: Any) -> str:
    if value is None:
        return "(none)"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
