"""Methods of inversion, each registered with `invsuite.registry.register.method` in a module of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from invsuite._system.identity import params_of
from invsuite._system.validation import build
from invsuite.registry import METHODS

if TYPE_CHECKING:
    from invsuite.methods.base import Method


def make_method(kind: str, parameters: Mapping[str, Any], where: str = "") -> Method:
    """Return the method registered as ``kind`` with parameters as a suite file gives them.

    Args:
        kind: name under which the method is registered.
        parameters: its fields.
        where: key of the table that holds them (``methods.NAME``), for messages.

    Raises:
        UsageError: for an unknown method or parameter, listing what exists, or a value that the parameter refuses.
    """
    return build(METHODS[kind], parameters, where or f"methods.{kind}")


def method_table(method: Method) -> dict[str, Any]:
    """Return the table of a suite file that makes ``method``, with methods that it builds on as tables in it."""
    tree = {field.name: getattr(method, field.name) for field in fields(method)}
    inner = {key: method_table(tree[key]) for key in method.row_parameters}
    return {"kind": method.name} | params_of(method) | inner
