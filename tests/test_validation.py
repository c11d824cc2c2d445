"""The validator names the key as the user wrote it, and accepts what annotations declare and nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from invsuite._system.validation import NotEmpty, Range, build, check, describe, field_types
from invsuite.errors import UsageError


@dataclass(frozen=True)
class Inner:
    width: Annotated[int, Range(minimum=1, maximum=9)] = 3


@dataclass(frozen=True)
class Outer:
    name: str
    seeds: Annotated[tuple[int, ...], NotEmpty()] = (0,)
    size: tuple[int, int] | None = None
    rate: Annotated[float, Range(above=0)] = 0.5
    loss: Literal["l2", "cosine"] = "l2"
    flag: bool = False
    weights: dict[str, float] = field(default_factory=dict)
    inner: Inner = Inner()
    tensors: str | tuple[str, ...] = ""
    tables: dict[str, Inner] = field(default_factory=dict)
    free: Any = None
    derived: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        check(self, "outer")


def test_a_table_becomes_the_dataclass_with_its_types() -> None:
    tree = {
        "name": "n",
        "seeds": [1, 2],
        "size": [3, 4],
        "rate": 2,
        "weights": {"embed": 1},
        "inner": {"width": 9},
        "tensors": ["a", "b"],
        "tables": {"first": {}},
    }
    outer = build(Outer, tree)
    assert outer.seeds == (1, 2)
    assert outer.size == (3, 4)
    assert type(outer.rate) is float, "2 and 2.0 are one value, and so one identity"
    assert outer.weights == {"embed": 1.0}
    assert outer.inner == Inner(9)
    assert outer.tensors == ("a", "b")
    assert outer.tables == {"first": Inner()}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("nam", "x", "unknown key 'own.nam': did you mean own.name"),
        ("derived", 1, "unknown key 'own.derived'"),
        ("name", 3, "'own.name' is 3, expected a text"),
        ("seeds", [], r"'own.seeds' is \[\], expected at least one entry"),
        ("seeds", [0, True], r"'own.seeds\[1\]' is True, expected a whole number"),
        ("seeds", 3, "'own.seeds' is 3, expected a list, each a whole number"),
        ("size", [1, 2, 3], r"'own.size' is \[1, 2, 3\], expected a list of 2 entries, each a whole number"),
        ("size", 3.5, "'own.size' is 3.5, expected a list of 2 entries"),
        ("rate", 0, "'own.rate' is 0, expected more than 0"),
        ("rate", math.inf, "'own.rate' is inf, expected a finite number"),
        ("rate", math.nan, "'own.rate' is nan, expected a finite number"),
        ("rate", True, "'own.rate' is True, expected a number"),
        ("loss", "l3", "unknown own.loss 'l3': did you mean l2"),
        ("loss", 3, "'own.loss' is 3, expected l2 or cosine"),
        ("flag", 1, "'own.flag' is 1, expected true or false"),
        ("weights", {"embed": "1"}, "'own.weights.embed' is '1', expected a number"),
        ("inner", {"width": 10}, "'own.inner.width' is 10, expected from 1 to 9"),
        ("inner", {"depth": 1}, "unknown key 'own.inner.depth'"),
        ("inner", 3, "'own.inner' is 3, expected a table"),
        ("tensors", 3, "'own.tensors' is 3, expected a text or a list, each a text"),
        ("tables", {"first": {"width": 0}}, "'own.tables.first.width' is 0, expected from 1 to 9"),
    ],
)
def test_errors_name_the_key(key: str, value: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(Outer, {"name": "n", key: value}, "own")


def test_a_missing_key_is_named() -> None:
    with pytest.raises(UsageError, match=r"'own\.name' is missing"):
        build(Outer, {}, "own")


def test_what_a_file_may_not_say_python_may_not_either() -> None:
    with pytest.raises(UsageError, match=r"'outer\.rate' is -1, expected more than 0"):
        Outer("n", rate=-1)


def test_annotations_are_told_in_words() -> None:
    assert describe(field_types(Inner)["width"]) == "a whole number, from 1 to 9"
    assert describe(field_types(Outer)["rate"]) == "a number, more than 0"
    assert str(Range(minimum=1)) == "1 or more"
    assert str(Range(above=0, maximum=1)) == "more than 0 to 1"
    assert str(Range(above=0, below=1)) == "more than 0 and less than 1"
    assert 1 not in Range(minimum=0, below=1)
