"""The front door: every name is there, and only what is used is imported."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import invsuite

HEAVY = ("torch", "transformers", "timm", "torchmetrics", "scipy", "matplotlib", "pandas", "ray")
SCRIPT = """
import json, sys
{code}
print(json.dumps([name for name in {heavy} if name in sys.modules]), file=sys.stderr)
"""
COMMAND = """
from invsuite.cli import app
try:
    app({words})
except SystemExit as ended:
    assert not ended.code, ended.code
"""


def imported(code: str) -> set[str]:
    """Return which heavy packages a process has imported that ran ``code``."""
    script = SCRIPT.format(code=code, heavy=HEAVY)
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(ended.stderr.splitlines()[-1]))


@pytest.mark.parametrize("words", [["--help"], ["bench", "--help"], ["list", "suites"]])
def test_help_and_the_list_of_suites_import_nothing_heavy(words: list[str]) -> None:
    assert imported(COMMAND.format(words=words)) == set()


def test_only_what_a_command_names_is_imported() -> None:
    assert not imported(COMMAND.format(words=["list", "methods"])) & {"timm", "transformers", "torchmetrics"}


def test_the_package_imports_nothing_heavy() -> None:
    assert imported("import invsuite; dir(invsuite)") == set()


@pytest.mark.parametrize("name", invsuite.__all__)
def test_every_name_of_the_front_door_is_there(name: str) -> None:
    assert getattr(invsuite, name) is not None


def test_an_argument_that_is_not_there_is_refused() -> None:
    with pytest.raises(invsuite.UsageError, match="unknown argument 'model': did you mean models"):
        invsuite.run("quick", model=["vit"])  # type: ignore[call-arg]


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="lode_model"):
        invsuite.lode_model  # noqa: B018
