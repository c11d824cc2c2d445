"""What quality costs: trained methods at equal cost and at equal quality, and what the saving of modules comes to.

Everything is read from records: the curve of selection PSNR against image passes and seconds that training left in the
notes, operations counted by the flop counter, and the scored PSNR. Cost up to a point of a curve is the fit's cost in
proportion to its image passes, its initialisation included.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from invsuite.report.budget import END_TO_END, MODULAR, TERA, curves_of, equal_quality, gain_text
from invsuite.report.markdown import VALUES
from invsuite.report.results import Results
from invsuite.report.texts import data_texts, markdown_table
from invsuite.results.record import Measurement, Record
from invsuite.results.regime import regime_of, short, table_of
from invsuite.results.rows import Row

ITERATIVE = "optimisation"


@dataclass(frozen=True)
class TrainedCell:
    """A cell whose inverse was trained.

    Attributes:
        method: its row name.
        stage: whose representation is inverted.
        record: that it is of.
        curve: (image passes, mean selection PSNR in dB), in order.
        passes: images seen in the whole fit.
        seconds: of the stage's own training.
        flops: of the stage's own training.
        frozen_flops: of the frozen forward passes, which all stages of the method share.
        parameters: values that the inverse holds.
        modules: the stages whose modules this inverse is made of, each trained alone; none where one network was
            trained from this stage.
    """

    method: str
    stage: str
    record: Record
    curve: tuple[tuple[float, float], ...]
    passes: float
    seconds: float
    flops: float
    frozen_flops: float
    parameters: int
    modules: tuple[str, ...]

    def reached(self, psnr: float) -> float | None:
        """Return image passes at the first evaluation with at least ``psnr`` on the selection images; None if never."""
        return next((passes for passes, value in self.curve if value >= psnr), None)

    @property
    def row(self) -> Row:
        """Return its row of tables."""
        return Row((self.record,))

    @property
    def best(self) -> float:
        """Return the best selection PSNR of the curve."""
        return max(value for _, value in self.curve)

    def share(self, passes: float) -> float:
        """Return the part of the fit's cost up to ``passes``; initialisation alone counts as the first evaluation."""
        return min(1.0, max(passes, self.curve[1][0] if len(self.curve) > 1 else self.passes) / self.passes)


def trained_cells(records: Iterable[Record]) -> list[TrainedCell]:
    """Return the trained cells of one model and seed that have a curve of PSNR."""
    cells = []
    for record in records:
        notes, cost, psnr = record.notes, record.cost, record.measurements.get("psnr")
        curve = tuple((point[0], point[3]) for point in notes.get("curve", []) if point[3] is not None)
        if cost is None or psnr is None or psnr.mean is None or not curve or not cost.fit_image_passes:
            continue
        composed = "modules" in notes and "module" not in notes  # trained alone and left so
        cells.append(
            TrainedCell(
                record.cell.method,
                record.cell.stage,
                record,
                curve,
                cost.fit_image_passes,
                cost.fit_seconds,
                cost.fit_flops or 0.0,
                cost.fit_frozen_flops or 0.0,
                cost.parameters,
                tuple(notes["modules"]) if composed else (),
            )
        )
    return cells


def efficiency_markdown(suites: Iterable[Results]) -> str:
    """Return the page: for every suite and model, cost and quality of every method."""
    lines = [
        "# Efficiency: what reconstruction quality costs",
        "",
        "Rendered from the records of the suites below. PSNR in dB is the mean over the scored images with its 95 % "
        "bootstrap interval. *Own* cost is an inverse's own training, forward, backward and start; *frozen* cost is "
        "the model's forward passes, which all stages of a method share. What holds after some image passes may not "
        "after more: every statement names them, and of methods that search for each image the iterations after which "
        "they converged. What was stopped before it converged is left out. Operations (TFLOP, a multiply-add is two) "
        "are counted by PyTorch's flop counter; seconds are `wall` on a CPU and compare within one table only.",
        "",
    ]
    for results in suites:
        lines += [f"## {results.title}", ""]
        for model, records in results.models.items():
            seed = records[0].cell.seed
            done = [record for record in records if record.ok and record.cell.seed == seed]
            kept = [record for record in done if regime_of([record]).converged is not False]
            lines += [f"### {model}", "", *_where(done), *_left_out(done), *_equal_cost(kept)]
            curves = curves_of(model, records)
            cells = trained_cells(_largest_budgets(kept))
            if curves.of(MODULAR) is not None:
                lines += equal_quality(curves, [measure for measure in curves.measures() if measure.name == "psnr"])
            elif cells:
                lines += _equal_quality(cells)
            if cells:
                lines += _claim(kept, cells)
    return "\n".join(lines).rstrip() + "\n"


def _where(done: Sequence[Record]) -> list[str]:
    """Return lines that say what the numbers were measured on and with."""
    data = next((record.data for record in done if record.data), None)
    if data is None:
        return ["No cell is finished.", ""]
    devices = sorted({record.provenance.device for record in done})
    commits = sorted({(record.provenance.git["sha"] or "package")[:10] for record in done})
    return [
        ". ".join([*data_texts(done), f"Device: {'; '.join(devices)}, {done[0].provenance.threads} threads"])
        + f". Seed {done[0].cell.seed}. Code: {', '.join(commits)}.",
        "",
    ]


def _left_out(done: Sequence[Record]) -> list[str]:
    """Return lines on the records of which no statement is made."""
    stopped = [record for record in done if regime_of([record]).converged is False]
    named = [f"`{r.cell.method}` at {r.cell.stage} ({regime_of([r]).text})" for r in stopped]
    return [f"Left out, because they were stopped before they converged: {', '.join(named)}.", ""] if named else []


def _largest_budgets(records: Sequence[Record]) -> list[Record]:
    """Return the records of each method's largest budget, where its rows have several."""
    largest: dict[str, int] = {}
    budgets = [(record, *table_of(record.cell.method)) for record in records]
    for _, table, passes in budgets:
        largest[table] = max(largest.get(table, 0), int(passes or 0))
    return [record for record, table, passes in budgets if int(passes or 0) == largest[table]]


def _equal_cost(done: Sequence[Record]) -> list[str]:
    """Return lines with every method at its budget."""
    body = []
    for record in done:
        cell, cost, psnr = record.cell, record.cost, record.measurements.get("psnr")
        if cost is None or psnr is None or not psnr.ok:
            continue
        interval = "" if psnr.low is None else f" [{psnr.low:.2f}, {psnr.high:.2f}]"
        body.append(
            [
                cell.stage,
                cell.method,
                regime_of([record]).text,
                f"{psnr.mean:.2f}{interval} (n={psnr.n})",
                f"{cost.fit_image_passes:,}",
                f"{cost.parameters:,}",
                _tera(cost.fit_flops),
                _tera(cost.fit_frozen_flops),
                f"{cost.fit_seconds:.0f} + {cost.fit_shared_seconds:.0f}",
                f"{(cost.invert_flops_per_image or 0) / 1e9:.2f}",
                f"{1000 * cost.invert_seconds_per_image:.0f}",
            ]
        )
    head = ["Stage", "Method", "Budget", "PSNR dB ↑", "Fit images seen", VALUES, "Own TFLOP", "Frozen TFLOP"]
    head += ["Fit s own + shared", "Invert GFLOP/image", "Invert ms/image"]
    return ["**At equal cost**: every method with its budget.", "", markdown_table(body, head), ""]


def _equal_quality(cells: Sequence[TrainedCell]) -> list[str]:
    """Return lines with the cost of every method until it is as good as the worst of them becomes."""
    stages = list(dict.fromkeys(cell.stage for cell in cells))
    by_method: dict[str, dict[str, TrainedCell]] = {}
    for cell in cells:
        by_method.setdefault(cell.method, {})[cell.stage] = cell
    complete = {method: own for method, own in by_method.items() if len(own) == len(stages)}
    target = {stage: min((own[stage].best for own in complete.values()), default=0.0) for stage in stages}
    body = []
    for method, own in complete.items():
        line = [method]
        for stage in stages:
            passes = own[stage].reached(target[stage])
            line.append("-" if passes is None else f"{passes:,.0f}")
        total = cost_to(list(own.values()), target)
        line += ["-", "-"] if total is None else [f"{total[0] / TERA:.2f}", f"{total[1]:.0f}"]
        body.append(line)
    limits = " / ".join(dict.fromkeys(short(cell.passes) for own in complete.values() for cell in own.values()))
    head = ["Method", *(f"{stage} to {target[stage]:.2f} dB" for stage in stages), "Own TFLOP, all", "Own s, all"]
    return [
        "**At equal quality**: images seen until the selection images reach the quality that every trained method "
        f"reaches at that stage within its budget of {limits} passes (evaluations are steps of this table; 0 is the "
        "start), and the own cost of all stages up to there. A module serves every stage behind it and is counted "
        "once. Methods whose modules train one after the other have no such curve and are left out.",
        "",
        markdown_table(body, head),
        "",
    ]


def cost_to(cells: Sequence[TrainedCell], target: Mapping[str, float]) -> tuple[float, float] | None:
    """Return own operations and seconds until every stage reached its target; None if one never does.

    They are summed over stages; where inverses are made of modules trained side by side, all train until the last stage
    has reached its target.

    Args:
        cells: of one method, one per stage.
        target: selection PSNR by stage.
    """
    shares = {}
    for cell in cells:
        passes = cell.reached(target[cell.stage])
        if passes is None:
            return None
        shares[cell.stage] = cell.share(passes)
    if any(cell.modules for cell in cells):
        shares = dict.fromkeys(shares, max(shares.values()))
    return (
        sum(shares[cell.stage] * cell.flops for cell in cells),
        sum(shares[cell.stage] * cell.seconds for cell in cells),
    )


def _claim(done: Sequence[Record], cells: Sequence[TrainedCell]) -> list[str]:
    """Return what the claim comes to: modules against one network per stage, and against optimisation."""
    by = {(table_of(cell.method)[0], cell.stage): cell for cell in cells}
    stages = [s for s in dict.fromkeys(c.stage for c in cells) if (END_TO_END, s) in by and (MODULAR, s) in by]
    chains, modules = [by[END_TO_END, s] for s in stages], [by[MODULAR, s] for s in stages]
    budgets = {table_of(cell.method)[1] for cell in (*chains, *modules)}
    if len(budgets) != 1:
        return []
    lines = ["**What modules save**", ""]
    own, other = sum(cell.flops for cell in modules), sum(cell.flops for cell in chains)
    decoder = (len(stages) - 1) * modules[0].flops
    spent = f"{short(max(cell.passes for cell in (*chains, *modules)))} passes"
    gains = [f"{s} {gain_text(m.row, c.row, _psnr(m))}" for s, m, c in zip(stages, modules, chains, strict=True)]
    lines.append(
        f"- At equal images seen ({spent} for each inverse), `{MODULAR}` takes {own / TERA:.2f} TFLOP of own training "
        f"for {len(stages)} stages, `{END_TO_END}` {other / TERA:.2f}: {other / own:.1f} times as much. The scored "
        f"PSNR of `{MODULAR}` over `{END_TO_END}` is then, in dB, paired over images: {', '.join(gains)}."
    )
    lines.append(
        f"- Of the {(other - own) / TERA:.2f} TFLOP saved within {spent}, {100 * decoder / max(other - own, 1):.0f} % "
        f"are the image decoder trained once instead of {len(stages)} times; the rest are the modules between."
    )
    target = {s: min(m.best, c.best) for s, m, c in zip(stages, modules, chains, strict=True)}
    both = cost_to(modules, target), cost_to(chains, target)
    if both[0] and both[1]:
        ratio = both[1][0] / both[0][0]
        times = f"{ratio:.1f} times as much as" if ratio >= 1 else f"{1 / ratio:.1f} times less than"
        lines.append(
            f"- At equal quality (what both reach at each stage within {spent}), `{END_TO_END}` takes "
            f"{both[1][0] / TERA:.2f} TFLOP, {times} `{MODULAR}` with {both[0][0] / TERA:.2f}."
        )
    lines.append(
        f"- All modules together hold {sum(cell.parameters for cell in modules):,} trained values, the networks of "
        f"`{END_TO_END}` {sum(cell.parameters for cell in chains):,}."
    )
    lines += _against_optimisation(done, modules)
    return [*lines, ""]


def _against_optimisation(done: Sequence[Record], modules: Sequence[TrainedCell]) -> list[str]:
    """Return after how many images fitting modules is cheaper than optimising each, and which is better."""
    iterative = {record.cell.stage: record for record in done if record.cell.method == ITERATIVE}
    parts, each, fixed = [], 0.0, 0.0
    for cell in modules:
        record = iterative.get(cell.stage)
        flops = record.cost.invert_flops_per_image if record is not None and record.cost is not None else None
        psnr = record.measurements.get("psnr") if record is not None else None
        if record is not None and flops and psnr is not None and psnr.ok:
            each += flops
            fixed += cell.flops
            parts.append(f"{cell.stage} {gain_text(cell.row, Row((record,)), psnr)}, {regime_of([record]).text}")
    if not parts:
        return []
    fixed += max(cell.frozen_flops for cell in modules)
    return [
        f"- Against `{ITERATIVE}`, `{MODULAR}` after {short(modules[0].passes)} passes scores, in dB, paired over "
        f"images: {'; '.join(parts)}. Its whole fit, frozen passes included, costs as many operations as inverting "
        f"{fixed / each:,.0f} images at all stages by optimisation; from there on it is cheaper."
    ]


def _psnr(cell: TrainedCell) -> Measurement:
    return cell.record.measurements["psnr"]


def _tera(flops: float | None) -> str:
    return "" if flops is None else f"{flops / TERA:.3f}"
