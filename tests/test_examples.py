"""The examples in docstrings run and give what they say, and every name of the front door has one."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

import invsuite
from invsuite.registry import forget_plugins

PACKAGE = Path(invsuite.__file__).parent
MODULES = sorted(
    ".".join(("invsuite", *path.relative_to(PACKAGE).with_suffix("").parts))
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_say(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testmod(module, extraglobs={"np": np, "torch": torch, "__name__": "example"}, optionflags=flags)
    forget_plugins()  # units that an example registered
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("name", invsuite.__all__)
def test_every_name_of_the_front_door_has_an_example(name: str) -> None:
    assert ">>> " in (getattr(invsuite, name).__doc__ or ""), f"the docstring of {name} has no example"
