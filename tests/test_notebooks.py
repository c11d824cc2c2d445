"""The notebooks run from top to bottom, and show what they say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelManager]:
    """One kernel for all notebooks, which has to import torch once."""
    manager = KernelManager(kernel_name="python3")
    yield manager
    if manager.has_kernel:
        manager.shutdown_kernel(now=True)


def executed(name: str, folder: Path, kernel: KernelManager) -> NotebookNode:
    """The notebook of this name with its outputs; a cell that raises fails the test."""
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # the repository holds none
    # the folder of the notebook before may be gone
    notebook.cells.insert(0, new_code_cell(f"import os\nos.chdir({str(folder)!r})\n%reset -f"))
    NotebookClient(notebook, timeout=600, km=kernel).execute()
    return notebook


def pictures(notebook: NotebookNode) -> int:
    """How many cells show a figure."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def printed(notebook: NotebookNode) -> str:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") or output["data"].get("text/plain", "") for output in outputs)


@pytest.mark.slow
def test_a_photo_is_inverted(tmp_path: Path, kernel: KernelManager) -> None:
    notebook = executed("invert_a_photo.ipynb", tmp_path, kernel)
    assert pictures(notebook) == 4
    text = printed(notebook)
    assert re.search(r"block06: \d\d\.\d dB PSNR on 128 images", text)
    assert re.search(r"^hue \+120° +\{'embed': \d\d\.\d", text, re.M)
    assert (tmp_path / "coffee.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.slow
def test_a_fine_tuned_model_is_compared(tmp_path: Path, kernel: KernelManager) -> None:
    notebook = executed("what_does_my_model_see.ipynb", tmp_path, kernel)
    assert pictures(notebook) == 3
    text = printed(notebook)
    assert "it is for another model" in text  # the old inverse refuses the new weights
    last = re.search(r"^block06 hue_gain +(\S+) +(\S+) +(\S+)$", text, re.M)
    assert last is not None
    new, old, before = map(float, last.groups())  # in the order of their names
    assert before > 0.9
    assert old < 0.5
    assert new > 0.9
