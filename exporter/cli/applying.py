"""Exports as a file: what would have to change for them to be as the file says, and the file that they are.

    exports:
      - id: high-value                  # without one, the export of this name, or a new one
        name: High value customers
        connection: main                # null: detached
        list: High value                # a list's id, or its name
        segments: [HighValue]
        mapping: {email: EMail}
        schedule: {on: arrival}         # as without it
        max_profiles: 100000            # without it: no maximum
        keep_rejected_rows: true        # without it: they are not kept
        reconcile: true                 # without it: members are not compared
        paused: true                    # without it: as it is; a new one is not paused

`plan` reads everything and writes nothing; it raises Invalid, with all that is wrong, before the first change. What is
not in the file stays, unless it is to be pruned.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import yaml

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
        fields = [
            {"field": path, "before": before, "after": after} for path, before, after in self.fields
        ]
        return {
            "change": str(self.kind),
            "export": self.seen.id if self.seen else None,
            "name": self.name,
        } | ({"fields": fields})


# Reading and writing the file


def read(text: str) -> list[dict[str, Any]]:
    """The exports of a file. Raises Invalid."""
    try:
        document = yaml.load(text, _Loader)  # noqa: S506 - made from the safe one
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise Invalid(
            Problem(
                "file", f"is no YAML{where}: {getattr(exc, 'problem', '') or 'it cannot be read'}"
            )
        ) from exc
    if (
        not isinstance(document, dict)
        or set(document) != {EXPORTS}
        or not isinstance(document[EXPORTS], list)
    ):
        raise Invalid(
            Problem("file", "should hold the one key exports:, and under it a list of exports")
        )
    wrong = [
        number for number, each in enumerate(document[EXPORTS], 1) if not isinstance(each, dict)
    ]
    if wrong:
        raise Invalid(
            *(Problem(f"exports.{number}", "should be keys and values") for number in wrong)
        )
    return list(document[EXPORTS])


def dump(views: Sequence[ExportView]) -> str:
    """The file that these exports are; applying it to them changes nothing."""
    listed = [{"id": view.id, **_document(_form_of(view))} for view in views]
    return yaml.safe_dump({EXPORTS: listed}, sort_keys=False, allow_unicode=True, width=120)


class _Loader(yaml.SafeLoader):
    """YAML without its surprises: 18:30 is no number, on and off are no booleans, a key may be there once."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in found
        if tag in ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")
    ]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    keys = [key.value for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key} is there twice", node.start_mark
            )
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


# Comparing


def plan(
    app: Exports, documents: Sequence[Mapping[str, Any]], *, prune: bool = False
) -> list[Edit]:
    """What must change, in the order in which it is done: removals, then the order of the file. Writes nothing.

    Raises Invalid with every problem of every export, and NotAllowed.
    """
    planning = _Planning(app)
    edits, kept = list[Edit](), set[str]()
    for number, document in enumerate(documents, 1):
        label = str(document.get("id") or document.get("name") or f"exports.{number}")[:120]
        try:
            edit, seen = planning.edit(document)
        except Invalid as exc:
            planning.problems += [
                Problem(f"{label}.{each.field}", each.message) for each in exc.problems
            ]
            seen = planning.find(document)
        else:
            edits += [edit] if edit else []
        if seen and seen.id in kept:
            planning.problems.append(Problem(label, "is in the file twice"))
        kept |= {seen.id} if seen else set()
    removed = [view for view in planning.views if prune and view.id not in kept]
    planning.check_names(edits, {view.id for view in removed})
    if planning.problems:
        raise Invalid(*planning.problems)
    edits[:0] = [_removal(view) for view in removed]
    for edit in edits:
        _check_may(edit)
    return edits


def apply(app: Exports, edits: Sequence[Edit]) -> Iterator[ExportView | None]:
    """Do it, edit by edit; yields what each saved. An export that changed since raises EditConflict."""
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
    """Settings, then resume; but pause before: a run must not start on settings that are to be looked at first."""
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
    """The id of a list that is given by id or name. Raises Invalid."""
    if any(each.id == wanted for each in lists):
        return wanted
    named = [each.id for each in lists if each.name == wanted]
    named = named or [each.id for each in lists if each.name.casefold() == wanted.casefold()]
    if len(named) == 1:
        return named[0]
    if named:
        raise Invalid(
            Problem(LIST, f"several lists have this name: give one of the ids {', '.join(named)}")
        )
    raise Invalid(
        Problem(
            LIST,
            f"the account has no list {wanted[:120]}: give an id or a name as Klaviyo shows it",
        )
    )


class _Planning:
    """What is there now, asked for once."""

    def __init__(self, app: Exports) -> None:
        self._app = app
        self.views = app.exports()
        self.problems: list[Problem] = []
        self._connections = [connection.id for connection in app.connections()]
        self._lists: dict[str, list[ListView]] = {}

    def find(self, document: Mapping[str, Any]) -> ExportView | None:
        """The export that a document is about."""
        given_id, name = document.get("id"), str(document.get("name", "")).strip().casefold()
        if given_id is not None:
            return next((view for view in self.views if view.id == given_id), None)
        return next((view for view in self.views if view.name.casefold() == name), None)

    def edit(self, document: Mapping[str, Any]) -> tuple[Edit | None, ExportView | None]:
        """What becomes of a document's export, None for nothing. Raises Invalid."""
        seen = self.find(document)
        form = self._form(document, seen)
        before = _document(_form_of(seen)) if seen else {}
        fields = tuple(_differences(before, _document(form)))
        if seen and not fields:
            return None, seen
        return Edit(
            kind=Kind.EDIT if seen else Kind.CREATE,
            name=form.name,
            fields=fields,
            form=form,
            seen=seen,
        ), seen

    def _form(self, document: Mapping[str, Any], seen: ExportView | None) -> NewExportForm:
        given = dict(document)
        if "list_id" in given:
            raise Invalid(Problem("list_id", "is called list here, and takes an id or a name"))
        wanted, connection_id = given.pop(LIST, None), given.get("connection")
        if not isinstance(wanted, str) or not wanted.strip():
            raise Invalid(Problem(LIST, "is missing: give the id or the name of a Klaviyo list"))
        if connection_id is not None and connection_id not in self._connections:
            raise Invalid(
                Problem(
                    "connection",
                    f"there is none of this id that you may use: {connection_id!s:.64}",
                )
            )
        is_as_before = seen is not None and (seen.connection, seen.list_id) == (
            connection_id,
            wanted,
        )
        if connection_id is not None and not is_as_before:
            if connection_id not in self._lists:
                self._lists[connection_id] = self._app.lists(connection_id)
            wanted = find_list(self._lists[connection_id], wanted)
        if seen:
            given = {"paused": seen.paused, **given, "id": seen.id}
        try:
            return parse(NewExportForm, {**given, "list_id": wanted})
        except Invalid as exc:
            fields = (LIST if each.field == "list_id" else each.field for each in exc.problems)
            raise Invalid(
                *(
                    Problem(field, each.message)
                    for field, each in zip(fields, exc.problems, strict=True)
                )
            ) from None

    def check_names(self, edits: Sequence[Edit], removed: set[str]) -> None:
        """Each id and name once: in the file, and against what is there when it is saved."""
        forms = [edit.form for edit in edits if edit.form]
        for edit in edits:
            if edit.form is None:
                continue
            label, name = edit.form.id or edit.form.name, edit.form.name.casefold()
            own = edit.seen.id if edit.seen else None
            taken = any(
                view.name.casefold() == name and view.id not in (own, *removed)
                for view in self.views
            )
            if taken or sum(form.name.casefold() == name for form in forms) > 1:
                self.problems.append(Problem(f"{label}.name", "is taken; choose another"))
            if edit.form.id and sum(form.id == edit.form.id for form in forms) > 1:
                self.problems.append(Problem(f"{label}.id", "is in the file twice"))


def _removal(view: ExportView) -> Edit:
    fields = tuple(_differences(_document(_form_of(view)), {}))
    return Edit(kind=Kind.REMOVE, name=view.name, fields=fields, seen=view)


def _check_may(edit: Edit) -> None:
    """Told before the first change; the app checks each again."""
    action = Action.EDIT_EXPORT if edit.kind is Kind.EDIT else Action.REMOVE_EXPORT
    if edit.seen and action.name.lower() not in edit.seen.may:
        raise NotAllowed(f"you may not {edit.kind} {edit.name}")


def _form_of(view: ExportView) -> NewExportForm:
    """The form that would make an export as it is."""
    kept = {name: getattr(view, name) for name in NewExportForm.model_fields}
    return NewExportForm.model_construct(**kept)


def _settings(form: NewExportForm) -> ExportForm:
    return ExportForm.model_construct(
        **{name: getattr(form, name) for name in ExportForm.model_fields}
    )


def _document(form: NewExportForm) -> dict[str, Any]:
    """A form as in a file, without what goes without saying."""
    dumped = form.model_dump(mode="json", exclude={"id"}, exclude_defaults=True)
    dumped["schedule"] = {"on": form.schedule.on, **dumped.get("schedule", {})}
    return {
        LIST if name == "list_id" else name: dumped[name]
        for name in NewExportForm.model_fields
        if name in dumped
    }


def _differences(before: Any, after: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(path, before, after) of each value that differs; None for what is not there."""
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
    """The edits for a person: a line an export, and one a field."""
    signs = {Kind.CREATE: "+", Kind.EDIT: "~", Kind.REMOVE: "-"}
    lines = []
    for edit in edits:
        lines.append(
            f"{signs[edit.kind]} {edit.kind} {edit.name}{f' ({edit.seen.id})' if edit.seen else ''}"
        )
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
