"""What quality costs: trained methods at equal cost and at equal quality, and what the saving of modules comes to.

Everything is read from records: the curve of selection PSNR against image passes and seconds that training left in the
notes, operations counted by the flop counter, and the scored PSNR. Cost up to a point of a curve is the fit's cost in
proportion to its image passes, its initialisation included.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from invsuite.report.budget import END_TO_END, MODULAR, TERA, curves_of, equal_quality, gained_text
from invsuite.report.devices import Devices, device_of, devices_of_rows
from invsuite.report.markdown import VALUES, where_text
from invsuite.report.results import Results
from invsuite.report.texts import budgets_text, data_texts, listed, markdown_table, value_text
from invsuite.results.record import Measurement, Record, devices_of
from invsuite.results.regime import regime_of, short, table_of
from invsuite.results.rows import Row, advantage, rows_of
from invsuite.results.statistics import Difference

ITERATIVE = "optimisation"
TITLE = "Efficiency: what reconstruction quality costs"
SAVED = (
    f"`{END_TO_END}` over `{MODULAR}`, in operations after as many images seen, in operations where both have the same "
    "selection PSNR, and in scored PSNR after as many images seen"
)


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


READING = """\
Rendered from records, of the first seed. PSNR in dB is the mean over the scored images with its 95 % bootstrap
interval; n counts images. *Own* cost is an inverse's own training, forward, backward and start; *frozen* cost is the
model's forward passes, which all stages of a method share (in seconds: *shared*). *Images seen* counts repeats; of
methods without training they are the images of their fit, of descents those that chose their settings. *Values held* is
what the stage's inverse keeps of its fit. What holds after some image passes may not after more: every statement names
them, and of methods that search for each image the iterations after which they converged. What was stopped before it
converged is left out. Operations (TFLOP, a multiply-add is two) are counted by PyTorch's flop counter, empty where
nobody counted them; seconds are of the clock in the heading (`wall` on a CPU, `cuda-event` on a GPU) and compare within
one table and device only.
"""


def efficiency_markdown(suites: Iterable[Results]) -> str:
    """Return the page: for every suite and model, cost and quality of every method."""
    body: list[str] = []
    kept_of: dict[str, list[Record]] = {}  # the records that the page speaks of, by suite and model
    quoted: list[str] = []
    for results in suites:
        body += [f"## {results.title}", ""]
        for model, records in results.models.items():
            seed = records[0].cell.seed
            done = [record for record in records if record.ok and record.cell.seed == seed]
            kept = [record for record in done if regime_of([record]).converged is not False]
            devices = devices_of_rows(Row((record,)) for record in kept)
            body += [f"### {model}", "", *_where(done, devices), *_left_out(done), *_equal_cost(kept, devices)]
            curves = curves_of(model, records)
            cells = trained_cells(_largest_budgets(kept))
            name = f"`{model}` of {results.name}"
            if curves.of(MODULAR) is not None:
                psnr = [measure for measure in curves.measures() if measure.name == "psnr"]
                body += equal_quality(curves, psnr).lines
            elif cells:
                body += _equal_quality(cells, devices)
            if saved := _saved(cells):
                body += _claim(kept, saved)
                quoted.append(f"on {name} {saved.text}")
            if kept:
                kept_of[name] = kept
    lines = [f"# {TITLE}", "", *_opening(kept_of, quoted), "", READING, *body]
    return "\n".join(lines).rstrip() + "\n"


def _opening(kept: Mapping[str, Sequence[Record]], quoted: Sequence[str]) -> list[str]:
    """Return three sentences: what the page shows, at which budgets, and what modules save on every model."""
    if not kept:
        return ["This page shows nothing yet: no cell has numbers."]
    rows = rows_of(record for records in kept.values() for record in records)
    counts = listed(str(n) for n in sorted({len(row.images) for row in rows}, reverse=True))
    spent = [
        f"{budgets_text(rows_of(record for name in names for record in kept[name]))} in {suite}"
        for suite, names in _by_suite(kept).items()
    ]
    return [
        f"This page shows what fitting inverses of {listed(kept)} costs, in operations and seconds, and which PSNR it "
        f"brings on {counts} scored images.",
        f"The methods are {'; '.join(spent)}.",
        f"{SAVED}: {'; '.join(quoted)}."
        if quoted
        else f"Nothing was fitted both as `{MODULAR}` and as `{END_TO_END}` at one budget.",
    ]


def _by_suite(kept: Mapping[str, Sequence[Record]]) -> dict[str, list[str]]:
    """Return which names of models are of each suite."""
    suites: dict[str, list[str]] = {}
    for name, records in kept.items():
        suites.setdefault(records[0].cell.suite, []).append(name)
    return suites


def _where(done: Sequence[Record], devices: Devices) -> list[str]:
    """Return lines that say what the numbers were measured on and with."""
    if not any(record.data for record in done):
        return ["No cell is finished.", ""]
    commits = sorted({(record.provenance.git["sha"] or "package")[:10] for record in done})
    where = f"{where_text(done)}. Seed {done[0].cell.seed}. Code: {', '.join(commits)}."
    return [". ".join([*data_texts(done), where]), *devices.note(), ""]


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


def _equal_cost(done: Sequence[Record], devices: Devices) -> list[str]:
    """Return lines with every method at its budget."""
    body = []
    for record in done:
        cell, cost, psnr = record.cell, record.cost, record.measurements.get("psnr")
        if cost is None or psnr is None or not psnr.ok:
            continue
        [device] = devices_of([record])
        body.append(
            [
                cell.stage,
                cell.method,
                regime_of([record]).text,
                value_text(Row((record,)), psnr),
                f"{cost.fit_image_passes:,}",
                f"{cost.parameters:,}",
                _tera(cost.fit_flops),
                _tera(cost.fit_frozen_flops),
                devices.marked(f"{cost.fit_seconds:.0f} + {cost.fit_shared_seconds:.0f}", device),
                f"{(cost.invert_flops_per_image or 0) / 1e9:.2f}",
                devices.marked(f"{1000 * cost.invert_seconds_per_image:.0f}", device),
            ]
        )
    head = ["Stage", "Method", "Budget", "PSNR dB ↑", "Images seen", VALUES, "Own TFLOP ↓", "Frozen TFLOP ↓"]
    head += [f"Fit s ({devices.clocks}) own + shared ↓", "Invert GFLOP/image ↓"]
    head += [f"Invert ms/image ({devices.clocks}) ↓"]
    return ["**At equal cost**: every method with its budget.", "", markdown_table(body, head), ""]


def _equal_quality(cells: Sequence[TrainedCell], devices: Devices) -> list[str]:
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
        device = device_of(cell.row for cell in own.values())
        line += ["-", "-"] if total is None else [f"{total[0] / TERA:.2f}", devices.marked(f"{total[1]:.0f}", device)]
        body.append(line)
    limits = " / ".join(dict.fromkeys(short(cell.passes) for own in complete.values() for cell in own.values()))
    head = ["Method", *(f"{stage} to {target[stage]:.2f} dB" for stage in stages), "Own TFLOP, all ↓", "Own s, all ↓"]
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


@dataclass(frozen=True)
class Saved:
    """Modules and one network per stage, trained with one budget.

    Attributes:
        modules: the cells of `MODULAR`, by stage.
        chains: those of `END_TO_END`, at the same stages.
        own: operations of the modules' own training.
        other: those of the networks.
        gains: by how much the scored PSNR of modules is better, in dB, by stage.
        at_quality: operations of modules and networks until both reach, at every stage, what the worse of the two does
            within its budget; None where one never does.
    """

    modules: Sequence[TrainedCell]
    chains: Sequence[TrainedCell]
    own: float
    other: float
    gains: Sequence[Difference]
    at_quality: tuple[float, float] | None

    @property
    def spent(self) -> str:
        """Return the image passes of each inverse."""
        return f"{short(max(cell.passes for cell in (*self.chains, *self.modules)))} passes"

    @property
    def text(self) -> str:
        """Return in short what networks take over modules, and what they bring (`SAVED`)."""
        gains = [-gain.mean + 0.0 for gain in self.gains if gain.mean is not None]
        ends = dict.fromkeys(f"{end:+.2f}" for end in (min(gains), max(gains))) if gains else {}
        equal = f"{self.at_quality[1] / self.at_quality[0]:.1f} times" if self.at_quality else "never"
        return (
            f"{self.other / self.own:.1f} times, {equal} and {' to '.join(ends) or 'nothing measured of'} dB "
            f"({self.spent} for each of {len(self.modules)} stages)"
        )


def _saved(cells: Sequence[TrainedCell]) -> Saved | None:
    """Return what modules save against one network per stage; None unless both were trained with one budget."""
    by = {(table_of(cell.method)[0], cell.stage): cell for cell in cells}
    stages = [s for s in dict.fromkeys(c.stage for c in cells) if (END_TO_END, s) in by and (MODULAR, s) in by]
    chains, modules = [by[END_TO_END, s] for s in stages], [by[MODULAR, s] for s in stages]
    own, other = sum(cell.flops for cell in modules), sum(cell.flops for cell in chains)
    if len({table_of(cell.method)[1] for cell in (*chains, *modules)}) != 1 or not own:
        return None
    target = {s: min(m.best, c.best) for s, m, c in zip(stages, modules, chains, strict=True)}
    both = cost_to(modules, target), cost_to(chains, target)
    gains = [advantage(m.row, c.row, "psnr") for m, c in zip(modules, chains, strict=True)]
    return Saved(modules, chains, own, other, gains, (both[0][0], both[1][0]) if both[0] and both[1] else None)


def _claim(done: Sequence[Record], saved: Saved) -> list[str]:
    """Return what the claim comes to: modules against one network per stage, and against optimisation."""
    own, other, modules, stages = saved.own, saved.other, saved.modules, len(saved.modules)
    decoder = (stages - 1) * modules[0].flops
    gains = [f"{m.stage} {gained_text(gain, _psnr(m))}" for m, gain in zip(modules, saved.gains, strict=True)]
    lines = [
        "**What modules save**",
        "",
        f"- At equal images seen ({saved.spent} for each inverse), `{MODULAR}` takes {own / TERA:.2f} TFLOP of own "
        f"training for {stages} stages, `{END_TO_END}` {other / TERA:.2f}: {other / own:.1f} times as much. The scored "
        f"PSNR of `{MODULAR}` over `{END_TO_END}` is then, in dB, paired over images: {', '.join(gains)}.",
        f"- Of the {(other - own) / TERA:.2f} TFLOP saved within {saved.spent}, "
        f"{100 * decoder / max(other - own, 1):.0f} % are the image decoder trained once instead of {stages} times; "
        "the rest are the modules between.",
    ]
    if saved.at_quality:
        cheap, dear = saved.at_quality
        ratio = dear / cheap
        times = f"{ratio:.1f} times as much as" if ratio >= 1 else f"{1 / ratio:.1f} times less than"
        lines.append(
            f"- At equal quality (what both reach at each stage within {saved.spent}), `{END_TO_END}` takes "
            f"{dear / TERA:.2f} TFLOP, {times} `{MODULAR}` with {cheap / TERA:.2f}."
        )
    lines.append(
        f"- All modules together hold {sum(cell.parameters for cell in modules):,} trained values, the networks of "
        f"`{END_TO_END}` {sum(cell.parameters for cell in saved.chains):,}."
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
            gain = advantage(cell.row, Row((record,)), psnr.name)
            parts.append(f"{cell.stage} {gained_text(gain, psnr)}, {regime_of([record]).text}")
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
