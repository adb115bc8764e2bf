"""GraphQL, as far as a server of the tests needs it: the fields that a query selects, out of plain dictionaries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphql import parse, value_from_ast_untyped
from graphql.language import ast


def execute(query: str, variables: Mapping[str, Any], root: Mapping[str, Any], missing: list[str]) -> dict[str, Any]:
    """What the query asks of `root`, and nothing else.

    Args:
        root: field -> value; a callable is called with the field's arguments.
        missing: is given the path of each field that there is no answer to; it is answered with null.
    """
    definitions = parse(query).definitions
    fragments = {d.name.value: d for d in definitions if isinstance(d, ast.FragmentDefinitionNode)}
    operation = next(d for d in definitions if isinstance(d, ast.OperationDefinitionNode))
    given = dict(variables)
    for variable in operation.variable_definitions or ():
        if variable.default_value is not None:
            given.setdefault(variable.variable.name.value, value_from_ast_untyped(variable.default_value))

    def arguments(nodes: Any) -> dict[str, Any]:
        found = {node.name.value: value_from_ast_untyped(node.value, given) for node in nodes or ()}
        return {k: given_only(v) for k, v in found.items() if v is not None}

    def given_only(value: Any) -> Any:
        return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value

    def wanted(node: Any) -> bool:
        asked = {d.name.value: arguments(d.arguments)["if"] for d in node.directives or ()}
        return bool(asked.get("include", True) and not asked.get("skip", False))

    def select(value: Any, selection: ast.SelectionSetNode | None, path: str) -> Any:
        if isinstance(value, list):
            return [select(item, selection, path) for item in value]
        if selection is None or value is None:
            return value
        out: dict[str, Any] = {}
        for node in filter(wanted, selection.selections):
            if isinstance(node, ast.FieldNode):
                name, key = node.name.value, (node.alias or node.name).value
                inner = f"{path}.{name}"
                if name == "__typename":
                    out[key] = value.get("__typename", "Object")
                elif name in value:
                    found = value[name]
                    found = found(**arguments(node.arguments)) if callable(found) else found
                    out[key] = select(found, node.selection_set, inner)
                else:
                    missing.append(inner)
                    out[key] = None
            else:
                fragment = fragments[node.name.value] if isinstance(node, ast.FragmentSpreadNode) else node
                condition = fragment.type_condition
                if condition is None or value.get("__typename", condition.name.value) == condition.name.value:
                    out |= select(value, fragment.selection_set, path)
        return out

    found: dict[str, Any] = select(root, operation.selection_set, operation.operation.value)
    return found
