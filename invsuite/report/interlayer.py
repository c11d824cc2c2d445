"""How stages relate, as tables and heat maps: cross-application from the cells, CKA and ridge R2 from their own
records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
from tabulate import tabulate

from invsuite.report.figures import save
from invsuite.results.record import Measurement, Record, RelationRecord
from invsuite.results.rows import by_model

CROSS = "cross_application"  # the measure whose facts hold a value for every other stage
ACROSS = 4  # panels beside each other
READING = (
    "Rows are the stages that are read, columns those that are predicted or applied to; 95 % intervals over images. "
    "**CKA**: debiased linear CKA of whole representations (Kornblith et al. 2019; Nguyen et al. 2021): 1 for the same "
    "up to rotation and scale, about 0 for unrelated ones; its interval is a jackknife. **Ridge R2**: variance of the "
    "column's stage that is linear in the row's, on images not fitted on, place by place; ᵐ where the two share no "
    "grid, of their means over places or queries. **Cross-application**: error of the row's inverse given the "
    "column's representation, over its error at its own stage."
)


@dataclass(frozen=True)
class Matrix:
    """Values between stages, with intervals; None where there is none. ``top`` is the most that a share can be; without
    it values are ratios."""

    title: str
    stages: list[str]
    value: list[list[float | None]]
    low: list[list[float | None]]
    high: list[list[float | None]]
    marks: list[list[str]]
    top: float | None = None

    def table(self) -> str:
        """Markdown, a row a stage."""
        body = []
        for i, stage in enumerate(self.stages):
            body.append([stage, *(self._cell(i, j) for j in range(len(self.stages)))])
        return tabulate(body, [self.title, *self.stages], tablefmt="github", disable_numparse=True)

    def _cell(self, i: int, j: int) -> str:
        value, low, high = self.value[i][j], self.low[i][j], self.high[i][j]
        if value is None:
            return "-"
        interval = "" if i == j or low is None or high is None else f" [{low:.2f}, {high:.2f}]"
        return f"{value:.2f}{self.marks[i][j]}{interval}"


def matrices(model: str, records: Sequence[Record], relations: Sequence[RelationRecord]) -> list[Matrix]:
    """Every matrix of ``model`` that the records hold, one seed."""
    found = []
    for relation in relations:
        if relation.cell.model == model and relation.ok:
            stages, cka, ridge = (relation.body[key] for key in ("stages", "cka", "ridge_r2"))
            plain = [[""] * len(stages) for _ in stages]
            marks = [["ᵐ" if rows == "images" else "" for rows in line] for line in ridge["rows"]]
            title = f"CKA (n={cka['n']})"
            found.append(Matrix(title, stages, cka["value"], cka["low"], cka["high"], plain, 1.0))
            title = f"Ridge R2 (n={ridge['n']})"
            found.append(Matrix(title, stages, ridge["value"], ridge["low"], ridge["high"], marks, 1.0))
    cells = [(r.cell, r.measurements[CROSS]) for r in records if r.cell.model == model and CROSS in r.measurements]
    cells = [(cell, measurement) for cell, measurement in cells if "row" in measurement.facts]
    for method in dict.fromkeys(cell.method for cell, _ in cells):
        rows: dict[str, Measurement] = {}
        for cell, measurement in cells:
            if cell.method == method:
                rows.setdefault(cell.stage, measurement)
        found.append(_cross(method, rows))
    return found


def _cross(method: str, found: dict[str, Measurement]) -> Matrix:
    """Cross-application of one method: a row a cell, in which every stage of its layout has a value."""
    stages = list(dict.fromkeys(stage for cell in found.values() for stage in cell.facts["row"]))

    def pick(key: str) -> list[list[float | None]]:
        rows = [found[stage].facts["row"] if stage in found else {} for stage in stages]
        return [[row.get(stage, {}).get(key) for stage in stages] for row in rows]

    label = next(iter(found.values())).label
    title = f"{label}, {method} (n={max(cell.n for cell in found.values())})"
    return Matrix(title, stages, pick("mean"), pick("low"), pick("high"), [[""] * len(stages) for _ in stages])


def interlayer_section(
    records: Sequence[Record], relations: Sequence[RelationRecord], images: Mapping[str, str]
) -> list[str]:
    """Lines of markdown; none where nothing relates stages.

    Args:
        records: of the cells.
        relations: of the models.
        images: file names of the heat maps to show, by model.
    """
    lines = []
    for model, own in by_model(records).items():
        for matrix in matrices(model, own, relations):
            lines += [f"### {model}", ""] if f"### {model}" not in lines else []
            lines += [matrix.table(), ""]
        lines += [f"![{images[model]}]({images[model]})\n"] if model in images else []
    failed = [f"- {r.cell.model}: {r.status}: {r.reason}" for r in relations if not r.ok]
    if not lines and not failed:
        return []
    return ["## Between stages", "", READING, "", *lines, *failed, *([""] if failed else [])]


def draw_heatmaps(model: str, records: Sequence[Record], relations: Sequence[RelationRecord], path: Path) -> bool:
    """One panel a matrix of ``model``: shares from 0 to 1 on a linear scale, ratios of errors on a logarithmic one.

    Returns:
        False if there is nothing to draw.
    """
    panels = matrices(model, records, relations)
    if not panels:
        return False
    side = max(len(panel.stages) for panel in panels) * 0.6 + 1.4
    columns = min(len(panels), ACROSS)
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(side * columns, side * rows), squeeze=False, layout="compressed"
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, panel in zip(axes.flat, panels, strict=False):
        numbers = [[float("nan") if v is None else v for v in line] for line in panel.value]
        limits = {"vmin": 0.0, "vmax": panel.top} if panel.top is not None else {"norm": "log"}
        shown = axis.imshow(numbers, cmap="viridis", **limits)
        for i, line in enumerate(panel.value):
            for j, value in enumerate(line):
                if value is not None:
                    light = shown.norm(value) < 0.6
                    colour = "white" if light else "black"
                    axis.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
        axis.set_xticks(range(len(panel.stages)), panel.stages, rotation=90, fontsize=8)
        axis.set_yticks(range(len(panel.stages)), panel.stages, fontsize=8)
        axis.set_title(panel.title, fontsize=8)
    figure.suptitle(f"{model}: between stages", fontsize=10)
    save(figure, path)
    plt.close(figure)
    return True
