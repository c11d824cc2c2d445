"""One validator for frozen dataclasses that are read from TOML or JSON: suites, parameters, cards, answers.

A dataclass declares what it accepts by its annotations, plug-ins' dataclasses too::

    @dataclass(frozen=True)
    class Budget:
        image_passes: Annotated[int, Range(minimum=1)] | None = None
        precision: Literal["float32", "bfloat16"] = "float32"

`build` makes one from a table and `check` goes over one that Python code made. Every error names the key as the user
wrote it. The standard library does it: pydantic would be one more package on a bare GPU machine, where the suite often
runs next to an installation of torch and little else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from invsuite.errors import UsageError, boundary, unknown_name

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """The numbers that a key accepts.

    Attributes:
        minimum: the smallest.
        maximum: the largest.
        above: a bound that is itself too small.
        below: a bound that is itself too large.
    """

    minimum: float = -math.inf
    maximum: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def __contains__(self, value: float) -> bool:
        return self.minimum <= value <= self.maximum and self.above < value < self.below

    def __str__(self) -> str:
        low = f"more than {self.above:g}" if self.above > self.minimum else f"{self.minimum:g} or more"
        if self.below < self.maximum:
            return f"{low} and less than {self.below:g}"
        if self.maximum == math.inf:
            return low
        return (
            f"{low} to {self.maximum:g}" if self.above > self.minimum else f"from {self.minimum:g} to {self.maximum:g}"
        )


class NotEmpty:
    """The lists and texts that a key accepts: those with at least one entry."""

    def __contains__(self, value: Sequence[object]) -> bool:
        return len(value) > 0

    def __str__(self) -> str:
        return "at least one entry"


Fact = Range | NotEmpty
Natural = Annotated[int, Range(minimum=0)]
Positive = Annotated[int, Range(minimum=1)]
NonNegativeFloat = Annotated[float, Range(minimum=0)]
PositiveFloat = Annotated[float, Range(above=0)]

WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    NoneType: "nothing",
    Any: "anything",
}


def build(cls: type[T], tree: object, where: str = "") -> T:
    """Return the dataclass ``cls`` filled from a table.

    Args:
        cls: a dataclass whose annotations say what each key accepts; fields without a default are needed.
        tree: the table, as `tomllib` or `json` reads it.
        where: the table's own key as the user wrote it (``methods.ridge``), "" for a whole file.

    Raises:
        UsageError: for a key that is unknown (with the nearest names), missing, of another type or out of range.
    """
    if not isinstance(tree, Mapping):
        raise _refusal(tree, "a table", where)
    types = field_types(cls)
    for key in tree:
        if key not in types:
            raise unknown_name("key", key_path(where, str(key)), [key_path(where, name) for name in types])
    for spec in fields(cls):  # type: ignore[arg-type]
        if spec.name in types and spec.name not in tree and spec.default is spec.default_factory is MISSING:
            raise UsageError(f"'{key_path(where, spec.name)}' is missing")
    values = {key: convert(value, types[key], key_path(where, key)) for key, value in tree.items()}
    with boundary(f"'{where}' is refused", UsageError):  # what a plug-in's own class says to its parameters
        instance = cls(**values)
    return instance


def check(instance: object, where: str = "") -> None:
    """Raise `UsageError` if a field of a dataclass holds what its annotation does not accept.

    It serves a ``__post_init__``: what `build` refuses in a file is refused in Python code too.
    """
    for name, annotation in field_types(type(instance)).items():
        convert(getattr(instance, name), annotation, key_path(where, name))


def convert(value: Any, annotation: Any, where: str) -> Any:
    """Return ``value``, the value of the key ``where``, as the type that ``annotation`` names.

    Lists become tuples where a tuple is declared, whole numbers become floats, tables become dataclasses.

    Raises:
        UsageError: if it is of another type, out of range, not one of the choices, or a number that is not finite.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        converted = convert(value, arguments[0], where)
        for fact in arguments[1:]:
            if isinstance(fact, Fact) and converted is not None and converted not in fact:
                raise _refusal(value, str(fact), where)
        return converted
    if origin is Literal and isinstance(value, str) and value not in arguments:
        raise unknown_name(where, value, map(str, arguments))
    if not _fits(value, annotation):
        raise _refusal(value, describe(annotation), where)
    if origin in (Union, UnionType):
        return convert(value, next(option for option in arguments if _fits(value, option)), where)
    if annotation is float:
        if not math.isfinite(value):
            raise _refusal(value, "a finite number", where)
        return float(value)
    if _is_list(annotation):
        entries = _entries(annotation, value, where)
        return [*entries] if (origin or annotation) is list else entries
    if _is_table(annotation):
        kind = arguments[1] if arguments else Any
        return {key: convert(entry, kind, key_path(where, str(key))) for key, entry in value.items()}
    if isinstance(annotation, type) and is_dataclass(annotation) and isinstance(value, Mapping):
        return build(annotation, value, where)
    return value


def describe(annotation: Any) -> str:
    """Return in words what an annotation accepts: "a whole number, 1 or more"."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return ", ".join([describe(arguments[0]), *(str(fact) for fact in arguments[1:] if isinstance(fact, Fact))])
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(describe(option) for option in arguments if option is not NoneType))
    if _is_list(annotation):
        size = len(arguments) if origin is tuple and Ellipsis not in arguments else 0
        length = f" of {size} entries" if size else ""
        return f"a list{length}, each {describe(arguments[0])}" if arguments else "a list"
    if _is_table(annotation) or is_dataclass(annotation):
        return "a table"
    return WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))


def field_types(cls: type[Any]) -> dict[str, Any]:
    """Return the annotations of a dataclass's keys, by name; a field that ``__init__`` does not take is no key."""
    hints = get_type_hints(cls, include_extras=True)
    return {spec.name: hints[spec.name] for spec in fields(cls) if spec.init}


def key_path(where: str, key: str) -> str:
    """Return the whole name of ``key`` in the table ``where``."""
    return f"{where}.{key}" if where else key


def _is_list(annotation: Any) -> bool:
    return (get_origin(annotation) or annotation) in (list, tuple, Sequence)


def _is_table(annotation: Any) -> bool:
    return (get_origin(annotation) or annotation) in (dict, Mapping)


def _fits(value: Any, annotation: Any) -> bool:
    """Tell whether ``value`` is of the type itself, whatever its entries are."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _fits(value, arguments[0])
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if origin in (Union, UnionType):
        return any(_fits(value, option) for option in arguments)
    if _is_list(annotation):
        return isinstance(value, list | tuple)
    if _is_table(annotation):
        return isinstance(value, Mapping)
    if is_dataclass(annotation):
        return isinstance(value, Mapping | annotation)  # type: ignore[operator]
    if annotation in (int, float):
        return isinstance(value, int if annotation is int else int | float) and not isinstance(value, bool)
    return annotation is Any or isinstance(value, annotation)


def _entries(annotation: Any, values: Sequence[Any], where: str) -> tuple[Any, ...]:
    """Return the converted entries of a list, whose length a ``tuple[X, Y]`` fixes."""
    kinds = get_args(annotation) or (Any, Ellipsis)
    if get_origin(annotation) is not tuple or Ellipsis in kinds:
        kinds = (kinds[0],) * len(values)
    if len(values) != len(kinds):
        raise _refusal(list(values), describe(annotation), where)
    numbered = enumerate(zip(values, kinds, strict=True))
    return tuple(convert(value, kind, f"{where}[{number}]") for number, (value, kind) in numbered)


def _refusal(value: object, expected: str, where: str) -> UsageError:
    return UsageError(f"'{where}' is {value!r}, expected {expected}" if where else f"expected {expected}: {value!r}")
