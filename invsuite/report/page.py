"""A page of markdown with figures beside it.

It opens with sentences from its records, which say what it shows, at which budget, and what comes out; then it says how
it is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from invsuite._system.files import write_atomically
from invsuite.report.figures import CurvePanel, draw_curves
from invsuite.report.results import Results
from invsuite.report.texts import data_texts
from invsuite.results.record import Record


class Page:
    """A page that grows line by line, and its figures.

    Args:
        path: of the page; figures go beside it.
        title: its heading.
        reading: how it is read; markdown.
    """

    def __init__(self, path: Path, title: str, reading: str) -> None:
        self.paths = [path]
        self.lines: list[str] = []
        self._title, self._reading = title, reading

    def suite(self, results: Results) -> None:
        """Begin the part of a suite."""
        self.lines += [f"## {results.title}", ""]

    def model(self, model: str, records: Iterable[Record]) -> None:
        """Begin the part of a model, with how many images its cells are of."""
        self.lines += [f"### {model}", "", *(f"{text}." for text in data_texts(r for r in records if r.ok)), ""]

    def curves(
        self,
        name: str,
        title: str,
        x_label: str,
        panels: Sequence[Sequence[CurvePanel]],
        logarithmic: bool = True,
        ticks: Sequence[str] = (),
    ) -> None:
        """Draw a figure (`invsuite.report.figures.draw_curves`), called ``name``, and show it here."""
        path = self.paths[0].with_name(name)
        draw_curves(title, x_label, panels, path, logarithmic, ticks)
        self.paths.append(path)
        self.lines += [f"![{name}]({name})", ""]

    def write(self, opening: Sequence[str]) -> list[Path]:
        """Write the page behind its opening sentences, and return its file and those of its figures.

        Raises:
            DiskError: if the disk refuses.
        """
        text = "\n".join([f"# {self._title}", "", *opening, "", self._reading, *self.lines])
        write_atomically(self.paths[0], (text.rstrip() + "\n").encode())
        return self.paths
