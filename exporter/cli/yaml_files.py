"""Read the YAML files that people write: mappings, and exports for `apply`."""

from __future__ import annotations

import sys
from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from exporter.cli.printing import is_utf8
from exporter.errors import ConfigError, Invalid, Problem

if TYPE_CHECKING:
    from exporter.definitions.mapping import MappingDocument


def read_text(file: Path) -> str:
    """Read a file that a person named. Raises ConfigError."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{file} is not encoded in UTF-8.", hint="Save it as UTF-8.") from exc
    except OSError as exc:
        why = exc.strerror or type(exc).__name__
        raise ConfigError(f"{file} cannot be read: {why}.", hint="Check the path.") from exc


def parse_yaml(text: str, field: str) -> Any:
    """Parse YAML in which every plain value is a text. field: whose errors. Raises Invalid.

    So 18:30 is not a number and `on` is not a boolean. A key that is written twice is an error.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a subclass of the safe loader
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(exc, "problem", "") or "it cannot be read"
        raise Invalid(Problem(field, f"is not valid YAML{where}: {problem}")) from exc


def read_mapping(
    email: str, file: Path | None, base: dict[str, Any] | None = None, *, encoding: str = ""
) -> MappingDocument:
    """Read the mapping of a file; --email and --encoding take precedence. base: what they change.

    Raises ConfigError, Invalid, MappingError.
    """
    from exporter.definitions.mapping import parse_mapping

    if file is None and not email:
        raise ConfigError(
            "The column with the e-mail address is not known.",
            hint="Add --email COLUMN or --mapping FILE.yaml.",
        )
    document: Any = base or {}
    if file is not None:
        document = parse_yaml(read_text(file), str(file)) or {}
        if not isinstance(document, dict):
            hint = "Write lines such as `email: EMail`."
            raise ConfigError(f"{file} is not a mapping.", hint=hint)
    given = {"email": email, "encoding": encoding}
    return parse_mapping({**document, **{key: value for key, value in given.items() if value}})


def dump_yaml(document: Any, **options: Any) -> str:
    """Write a document as YAML for standard output, with its keys in the order given."""
    is_plain = is_utf8(sys.stdout)  # else letters are escaped: the file is read as UTF-8
    return str(yaml.safe_dump(document, sort_keys=False, allow_unicode=is_plain, **options))


class _Loader(yaml.SafeLoader):
    """Takes plain values as text, and a key once."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in found
        if tag in ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")
    ]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    seen = set()
    for key, _ in node.value:
        if key.value in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key.value} is written twice", key.start_mark
            )
        seen.add(key.value)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
