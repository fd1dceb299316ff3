"""Bicep templates as plain values, as far as tests need them: declarations with their literals.

What is not a literal (a call, a parameter, a ternary) is an `Expr` with its source text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tree_sitter_bicep
from tree_sitter import Language, Node, Parser

_PARSER = Parser(Language(tree_sitter_bicep.language()))


class Expr(str):
    """Source text of something that is known at deployment only."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Resource:
    """One `resource`. `body` is what its braces hold, also within a loop or a condition."""

    file: str
    symbol: str
    type: str
    existing: bool
    body: dict[str, Any]
    condition: str = ""


@dataclass(slots=True)
class Template:
    """One file."""

    path: Path
    source: str
    resources: list[Resource] = field(default_factory=list)
    variables: dict[str, Any] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)  # default, None without one
    outputs: dict[str, Any] = field(default_factory=dict)
    modules: dict[str, dict[str, Any]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


def read(path: Path) -> Template:
    """Parse one file."""
    source = path.read_text(encoding="utf-8")
    # The grammar (1.1) does not know `x!.y`, which says that a module is there where it is used.
    root = _PARSER.parse(source.replace("!.", ".").encode()).root_node
    template = Template(path, source)
    template.errors = [
        f"{path.name}:{node.start_point[0] + 1}" for node in _walk(root) if node.is_error
    ]
    for node in root.named_children:
        match node.type:
            case "resource_declaration":
                _resource(template, node, parent="")
            case "variable_declaration":
                template.variables[_name(node)] = value(_last(node))
            case "parameter_declaration":
                has_default = any(child.type == "=" for child in node.children)
                template.params[_name(node)] = value(_last(node)) if has_default else None
            case "output_declaration":
                template.outputs[_name(node)] = value(_last(node))
            case "module_declaration":
                template.modules[_name(node)] = value(_body(node)[0])
    return template


def value(node: Node) -> Any:
    """A literal as what it is, anything else as Expr."""
    match node.type:
        case "object":
            return {
                _key(item): value(_last(item))
                for item in node.named_children
                if item.type == "object_property" and len(item.named_children) > 1
            }
        case "array":
            return [value(item) for item in node.named_children if item.type != "comment"]
        case "boolean":
            return _text(node) == "true"
        case "number":
            return int(_text(node))
        case "string" if not any(child.type == "interpolation" for child in node.named_children):
            return "".join(_text(child) for child in node.named_children).replace("\\'", "'")
    return Expr(_text(node))


def _resource(template: Template, node: Node, *, parent: str) -> None:
    type_ = value(node.named_children[1]).partition("@")[0]
    type_ = f"{parent}/{type_}" if parent else type_
    body, condition = _body(node)
    existing = any(
        child.type == "existing" or _text(child) == "existing" for child in node.children
    )
    found = Resource(template.path.name, _name(node), type_, existing, value(body), condition)
    template.resources.append(found)
    for item in body.named_children:
        for inner in item.named_children:
            if inner.type == "resource_declaration":
                _resource(template, inner, parent=type_)


def _body(node: Node) -> tuple[Node, str]:
    """The object of a declaration, and its condition."""
    last, condition = _last(node), ""
    while last.type in ("if_statement", "for_statement"):
        if last.type == "if_statement":
            condition = _text(last.named_children[0])
        last = _last(last)
    return last, condition


def _walk(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from _walk(child)


def _last(node: Node) -> Node:
    return [child for child in node.named_children if child.type != "comment"][-1]


def _name(node: Node) -> str:
    return _text(node.named_children[0])


def _key(node: Node) -> str:
    key = node.named_children[0]
    return _text(key) if key.type == "identifier" else str(value(key))


def _text(node: Node) -> str:
    return (node.text or b"").decode()
