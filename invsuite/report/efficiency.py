"""What quality costs: trained methods at equal cost and at equal quality, and what the saving of modules comes to.

Everything is read from records: the curve of selection PSNR against image passes and seconds that training left in the
notes, operations counted by the flop counter, and the scored PSNR. Cost up to a point of a curve is the fit's cost in
proportion to its image passes, its start included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tabulate import tabulate

from invsuite.results.record import Record

END_TO_END, MODULAR, ITERATIVE = "layerwise", "modular", "optimisation"
TERA = 1e12


@dataclass(frozen=True)
class Fit:
    """One trained cell.

    Attributes:
        method, stage: its row.
        psnr: mean over scored images, dB.
        curve: (image passes, mean selection PSNR in dB), in order.
        passes, seconds, flops: of the whole fit, own.
        shared_seconds, frozen_flops: of the frozen forward passes that all stages of the method share.
        parameters: trained values.
        modules: the stages whose modules this inverse is made of, each trained alone; none where one network was
            trained from this stage.
    """

    method: str
    stage: str
    psnr: float
    curve: tuple[tuple[float, float], ...]
    passes: float
    seconds: float
    flops: float
    shared_seconds: float
    frozen_flops: float
    parameters: int
    modules: tuple[str, ...]

    def reached(self, psnr: float) -> float | None:
        """Image passes at the first evaluation with at least ``psnr`` on the selection images; None if never."""
        return next((passes for passes, value in self.curve if value >= psnr), None)

    @property
    def best(self) -> float:
        """The best selection PSNR of the curve."""
        return max(value for _, value in self.curve)

    def share(self, passes: float) -> float:
        """The part of the fit's cost that ``passes`` are; the start alone counts as one evaluation's step."""
        return min(1.0, max(passes, self.curve[1][0] if len(self.curve) > 1 else self.passes) / self.passes)


def trained_fits(records: Sequence[Record]) -> list[Fit]:
    """The trained cells of one model that have a curve of PSNR, one seed."""
    found = []
    for record in records:
        notes, cost, psnr = record.notes, record.cost, record.measurements.get("psnr")
        points = [(p[0], p[3]) for p in notes.get("curve", []) if p[3] is not None]
        if cost is None or psnr is None or psnr.mean is None or not points or not cost.fit_image_passes:
            continue
        composed = "modules" in notes and "module" not in notes  # trained alone and left so
        found.append(
            Fit(
                record.cell.method,
                record.cell.stage,
                psnr.mean,
                tuple(points),
                cost.fit_image_passes,
                cost.fit_seconds,
                cost.fit_flops or 0.0,
                cost.fit_shared_seconds,
                cost.fit_frozen_flops or 0.0,
                cost.parameters,
                tuple(notes["modules"]) if composed else (),
            )
        )
    return found


def efficiency_markdown(suites: Sequence[tuple[str, Sequence[Record]]]) -> str:
    """The page: for every suite (title, records) and model, cost and quality of every method."""
    lines = [
        "# Efficiency: what reconstruction quality costs",
        "",
        "Rendered from the records of the suites below. PSNR in dB is the mean over the scored images with its 95 % "
        "bootstrap interval. *Own* cost is an inverse's own training, forward, backward and start; *frozen* cost is "
        "the model's forward passes, which all stages of a method share. Operations (TFLOP, a multiply-add is two) are "
        "counted by PyTorch's flop counter; seconds are `wall` on a CPU and compare within one table only.",
        "",
    ]
    for title, records in suites:
        lines += [f"## {title}", ""]
        for model in dict.fromkeys(r.cell.model for r in records):
            rows = [r for r in records if r.cell.model == model]
            seed = rows[0].cell.seed
            rows = [r for r in rows if r.cell.seed == seed]
            lines += [f"### {model}", "", *_where(rows), *_equal_cost(rows)]
            fits = trained_fits(rows)
            if fits:
                lines += [*_equal_quality(fits), *_claim(rows, fits)]
    return "\n".join(lines).rstrip() + "\n"


def _where(rows: Sequence[Record]) -> list[str]:
    done = next((r for r in rows if r.ok), None)
    if done is None or done.data is None:
        return ["No cell is finished.", ""]
    data, origin = done.data, done.provenance
    devices = sorted({r.provenance.device for r in rows if r.ok})
    commits = sorted({(r.provenance.git["sha"] or "package")[:10] for r in rows if r.ok})
    return [
        f"Fit on {data.fit} images, selected on {data.select}, scored on n = {data.score}. "
        f"Device: {'; '.join(devices)}, {origin.threads} threads. Seed {done.cell.seed}. "
        f"Code: {', '.join(commits)}.",
        "",
    ]


def _equal_cost(rows: Sequence[Record]) -> list[str]:
    body = []
    for record in rows:
        cell, cost = record.cell, record.cost
        if not record.ok or cost is None:
            continue
        psnr = record.measurements["psnr"]
        low, high = psnr.low, psnr.high
        body.append(
            [
                cell.stage,
                cell.method,
                f"{psnr.mean:.2f} [{low:.2f}, {high:.2f}]" if low is not None else f"{psnr.mean:.2f}",
                f"{cost.fit_image_passes:,}",
                f"{cost.parameters:,}",
                _tera(cost.fit_flops),
                _tera(cost.fit_frozen_flops),
                f"{cost.fit_seconds:.0f} + {cost.fit_shared_seconds:.0f}",
                f"{(cost.invert_flops_per_image or 0) / 1e9:.2f}",
                f"{1000 * cost.invert_seconds_per_image:.0f}",
            ]
        )
    head = ["Stage", "Method", "PSNR dB ↑", "Fit images seen", "Trained values", "Own TFLOP", "Frozen TFLOP"]
    head += ["Fit s own + shared", "Invert GFLOP/image", "Invert ms/image"]
    return ["**At equal cost**: the suite's budget for every trained inverse.", "", _markdown(body, head), ""]


def _equal_quality(fits: Sequence[Fit]) -> list[str]:
    stages = list(dict.fromkeys(fit.stage for fit in fits))
    methods = [
        method
        for method in dict.fromkeys(fit.method for fit in fits)
        if {fit.stage for fit in fits if fit.method == method} == set(stages)
    ]
    fits = [fit for fit in fits if fit.method in methods]
    target = {stage: min(fit.best for fit in fits if fit.stage == stage) for stage in stages}
    body = []
    for method in methods:
        line: list[str] = [method]
        own = {fit.stage: fit for fit in fits if fit.method == method}
        for stage in stages:
            fit = own.get(stage)
            passes = fit.reached(target[stage]) if fit else None
            line.append("-" if fit is None or passes is None else f"{passes:,.0f}")
        total = cost_to(list(own.values()), target)
        line += ["-", "-"] if total is None else [f"{total[0] / TERA:.2f}", f"{total[1]:.0f}"]
        body.append(line)
    head = ["Method", *(f"{stage} to {target[stage]:.2f} dB" for stage in stages), "Own TFLOP, all", "Own s, all"]
    return [
        "**At equal quality**: images seen until the selection images reach the quality that every trained method "
        "reaches at that stage (evaluations are steps of this table; 0 is the start), and the own cost of all stages "
        "up to there. A module serves every stage behind it and is counted once. Methods whose modules train one after "
        "the other have no such curve and are left out.",
        "",
        _markdown(body, head),
        "",
    ]


def cost_to(fits: Sequence[Fit], target: dict[str, float]) -> tuple[float, float] | None:
    """Own operations and seconds until every stage reached its target: summed over stages; where inverses are made of
    modules trained side by side, all train until the last stage has reached it. None if one never does."""
    shares = {}
    for fit in fits:
        passes = fit.reached(target[fit.stage])
        if passes is None:
            return None
        shares[fit.stage] = fit.share(passes)
    if any(fit.modules for fit in fits):
        shares = dict.fromkeys(shares, max(shares.values()))
    return (
        sum(shares[fit.stage] * fit.flops for fit in fits),
        sum(shares[fit.stage] * fit.seconds for fit in fits),
    )


def _claim(rows: Sequence[Record], fits: Sequence[Fit]) -> list[str]:
    """What the claim comes to: modules against one network a stage, and against optimisation."""
    by = {(fit.method, fit.stage): fit for fit in fits}
    stages = [s for s in dict.fromkeys(f.stage for f in fits) if (END_TO_END, s) in by and (MODULAR, s) in by]
    if not stages:
        return []
    chains, modules = [by[END_TO_END, s] for s in stages], [by[MODULAR, s] for s in stages]
    lines = ["**What modules save**", ""]
    own, other = sum(f.flops for f in modules), sum(f.flops for f in chains)
    decoder = (len(stages) - 1) * modules[0].flops
    loss = [f"{s} {m.psnr - c.psnr:+.2f}" for s, m, c in zip(stages, modules, chains, strict=True)]
    lines.append(
        f"- At equal images seen, `{MODULAR}` takes {own / TERA:.2f} TFLOP of own training for {len(stages)} stages, "
        f"`{END_TO_END}` {other / TERA:.2f}: {other / own:.1f} times as much. The scored PSNR of `{MODULAR}` over "
        f"`{END_TO_END}` is, in dB: {', '.join(loss)}."
    )
    lines.append(
        f"- Of the {(other - own) / TERA:.2f} TFLOP saved, {100 * decoder / max(other - own, 1):.0f} % are the image "
        f"decoder trained once instead of {len(stages)} times; the rest are the modules between."
    )
    target = {s: min(m.best, c.best) for s, m, c in zip(stages, modules, chains, strict=True)}
    both = cost_to(modules, target), cost_to(chains, target)
    if both[0] and both[1]:
        ratio = both[1][0] / both[0][0]
        told = f"{ratio:.1f} times as much as" if ratio >= 1 else f"{1 / ratio:.1f} times less than"
        lines.append(
            f"- At equal quality (what both reach at each stage), `{END_TO_END}` takes {both[1][0] / TERA:.2f} TFLOP, "
            f"{told} `{MODULAR}` with {both[0][0] / TERA:.2f}."
        )
    lines.append(
        f"- All modules together hold {sum(f.parameters for f in modules):,} trained values, the networks of "
        f"`{END_TO_END}` {sum(f.parameters for f in chains):,}."
    )
    lines += _against_optimisation(rows, modules)
    return [*lines, ""]


def _against_optimisation(rows: Sequence[Record], modules: Sequence[Fit]) -> list[str]:
    found = {r.cell.stage: r for r in rows if r.cell.method == ITERATIVE and r.ok and "psnr" in r.measurements}
    parts, each, fixed = [], 0.0, 0.0
    for fit in modules:
        record = found.get(fit.stage)
        if record is None or record.cost is None or not record.cost.invert_flops_per_image:
            continue
        each += record.cost.invert_flops_per_image
        fixed += fit.flops
        parts.append(f"{fit.stage} {fit.psnr - (record.measurements['psnr'].mean or 0.0):+.2f}")
    if not parts:
        return []
    fixed += max(fit.frozen_flops for fit in modules)
    iterations = next(iter(found.values())).identity["method"].get("iterations")
    return [
        f"- Against `{ITERATIVE}` ({iterations} iterations), `{MODULAR}` scores, in dB: {', '.join(parts)}. Its whole "
        f"fit, frozen passes included, costs as many operations as inverting {fixed / each:,.0f} images at all stages "
        "by optimisation; from there on it is cheaper."
    ]


def _tera(flops: float | None) -> str:
    return "" if flops is None else f"{flops / TERA:.3f}"


def _markdown(body: Sequence[Sequence[str]], head: Sequence[str]) -> str:
    return tabulate(body, head, tablefmt="github", disable_numparse=True)
