"""Methods of inversion, each registered with `invsuite.registry.register.method` in a module of its own."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from typing import TYPE_CHECKING, Any

from invsuite.errors import UsageError, unknown_name
from invsuite.registry import METHODS

if TYPE_CHECKING:
    from invsuite.methods.base import Method


def make_method(kind: str, params: dict[str, Any]) -> Method:
    """Return the method registered as ``kind`` with parameters as a suite file gives them.

    Raises:
        UsageError: for an unknown method or parameter, listing what exists.
    """
    method: Method = _build(METHODS[kind], params, f"method '{kind}'")
    return method


def _build(cls: type[Any], params: dict[str, Any], what: str) -> Any:
    known = {f.name: f for f in fields(cls)}
    values: dict[str, Any] = {}
    for key, value in params.items():
        if key not in known:
            raise unknown_name(f"parameter of {what}", key, known)
        default = _default(known[key])
        if is_dataclass(default) and isinstance(value, dict):
            value = _build(type(default), value, f"the {key} of {what}")
        elif type(value) is not type(default) and not (type(value) is int and isinstance(default, float)):
            raise UsageError(f"parameter '{key}' of {what}: expected {known[key].type}, got {value!r}")
        values[key] = value
    return cls(**values)


def _default(spec: Any) -> Any:
    return spec.default if spec.default is not MISSING else spec.default_factory()
