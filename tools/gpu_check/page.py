"""The page of a check: what the machine is, how fast fits are, every cell with its cost, and the suite's own tables."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from invsuite import load_results
from invsuite.results.record import Record

READING = """\
Seconds are by the clock named beside them: `cuda-event` is read from events on the GPU's own stream. **Fit images/s**
is a stage's image passes over its own seconds and those of the frozen passes that all stages of the fit shared;
**busy** is the share of the time in which the GPU ran something, as its driver says ten times a second, of the whole
fit and of the inversion of the scored images (`-`: shorter than a second, or not said)."""

SHARED = """\
**{} processes shared the device**: seconds, images per second and busy shares of these cells are of a busy device, and
what it gives alone is in the rates above. Quality does not depend on it."""

BOUND = """\
The bound of a fit: an image costs no less than one forward and backward pass of the frozen model to the deepest stage,
and the operations of its inverses' training steps (counted) at the rate of a large matrix product in their precision;
all three are measured in the same process. A fit's rate is that of its steps: the difference of two fits of different
length, on decoded photos, without what happens once. **Steps** are launched one by one by Python (`plain`), replayed
from captured CUDA graphs (`graphs`, what a GPU does by default), or go through `torch.compile` (`compile`, and its
mode `reduce-overhead`). The replayed bound is the same with the frozen model's passes as captured graphs."""


def main(words: Sequence[str] | None = None) -> None:
    """Write ``NAME.md`` and ``NAME.csv``, called by the suite, into the folder of what comes back."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of the run")
    parser.add_argument("--out", type=Path, required=True, help="folder with steps.json and rate.json")
    parser.add_argument("--shared", type=int, default=1, help="processes that ran side by side on the device")
    parser.add_argument("--same", type=Path, nargs=2, metavar=("RUN", "OTHER"), help="runs of a suite on two devices")
    options = parser.parse_args(words)
    facts = json.loads((options.out / "steps.json").read_text())
    rate = options.out / "rate.json"
    timed = ["## How fast a fit is", "", *rates(json.loads(rate.read_text())), ""] if rate.is_file() else []
    name, title, cells = Path(facts["suite"]).stem, f"The suite {facts['suite']} left no records", list[str]()
    made: list[str] = []
    if (options.run / "records").is_dir():
        results = load_results(options.run)
        tables = options.run / "tables"
        results.report(tables)
        name, title, made = results.name, results.title, machine(results.records)
        reading = [READING, "", SHARED.format(options.shared)] if options.shared > 1 else [READING]
        cells = ["## What every cell took", "", *reading, "", costs(results.records), "", "## Quality"]
        own = (tables / f"{name}.md").read_text().replace(f"# {title}", "", 1)
        for line in own.splitlines():
            if not line.startswith("!["):  # pictures of photos stay where their licence lets them be
                cells.append(f"#{line}" if line.startswith("## ") else line)
        (options.out / f"{name}.csv").write_bytes((tables / f"{name}.csv").read_bytes())
    lines = [f"# {title}", "", *made, "", *_steps(facts["steps"]), ""]
    if options.same:
        run, other = map(load_results, options.same)
        lines += same(run.name, run.records, other.records)
    lines += [*timed, *cells]
    (options.out / f"{name}.md").write_text("\n".join(lines).rstrip() + "\n")


def machine(records: Sequence[Record]) -> list[str]:
    """Return what machines, versions and commits the records were made with, as lines."""
    told: dict[str, None] = {}
    for origin in (record.provenance for record in records):
        versions = [f"{name} {origin.versions[name]}" for name in VERSIONS if origin.versions.get(name)]
        told[f"{', '.join([f'Device: {origin.device}', *versions])}; {origin.code}."] = None
    return list(told)


def same(suite: str, records: Sequence[Record], others: Sequence[Record]) -> list[str]:
    """Return how far the measures of the same cells of a suite are apart on two devices, as lines."""
    known = {record.cell.id: record for record in others if record.ok}
    pairs = [(record, known[record.cell.id]) for record in records if record.ok and record.cell.id in known]
    if not pairs:
        return ["## The same numbers as on a processor", "", f"The two runs of `{suite}` share no cell.", ""]
    count, apart, psnr = 0, list[str](), 0.0
    for one, two in pairs:
        for name, measured in one.measurements.items():
            again = two.measurements.get(name)
            if again is None or measured.mean is None or again.mean is None:
                continue
            off, count = abs(measured.mean - again.mean), count + 1
            psnr = max(psnr, off) if name == "psnr" else psnr
            if off > measured.tolerance:
                apart.append(f"{one.cell.key}: {name} {measured.mean:.4g} and {again.mean:.4g}")
    devices = [" and ".join(sorted({record.provenance.device for record in side})) for side in zip(*pairs, strict=True)]
    return [
        "## The same numbers as on a processor",
        "",
        f"{len(pairs)} cells of the suite `{suite}` on {devices[0]} and on {devices[1]}: {count} means of "
        f"measures, {len(apart)} of them further apart than the measure's tolerance; the largest difference of PSNR is "
        f"{psnr:.2g} dB.",
        "",
        *([*(f"- {line}" for line in apart), ""] if apart else []),
    ]


VERSIONS = ("torch", "timm", "transformers", "onnxruntime")
STEPS = {"tests": "numbers against the processor's (`tests/test_cuda.py`)", "rate": "rates", "bench": "the suite"}


def _steps(steps: list[dict[str, Any]]) -> list[str]:
    told = (f"{STEPS.get(step['step'], step['step'])}: {step['outcome']}, {step['seconds']:.0f} s" for step in steps)
    return [f"Steps: {'; '.join(told)}."]


def rates(facts: dict[str, Any]) -> list[str]:
    """Return a sentence on what bounds a fit, and a table of fits."""
    frozen, products = facts["frozen"], facts["flop_per_second"]
    head = (
        f"{facts['model']}, stages {', '.join(facts['stages'])}; {facts['method']}; batches of {facts['batch']} of "
        f"{facts['photos']} photos, decoded at {facts['decoded_per_second']:,.0f} per second. Frozen model: forward "
        f"{frozen['forward']:,.0f} images/s, forward and backward {frozen['forward_backward']:,.0f}; as captured "
        f"graphs {frozen['forward_replayed']:,.0f} and {frozen['forward_backward_replayed']:,.0f}. Matrix product: "
        + ", ".join(f"{products[name] / 1e12:,.3g} TFLOP/s in {name}" for name in products)
        + f". Clock: {facts['clock']}."
    )
    body = []
    for fit in facts["fits"]:
        row = fit["variant"].split(":")
        if "problem" in fit:
            body.append([*row, fit["problem"].splitlines()[0][:120], *[""] * 7])
            continue
        row[-1] += f": {fit['kept']}" if "kept" in fit and fit["kept"] != row[-1] else ""
        row += [f"{fit[name]:,.0f}" for name in ("images_per_second", "bound_images_per_second")]
        row += [
            f"{fit['share_of_bound']:.2f}",
            f"{fit['share_of_bound_replayed']:.2f}",
            f"{1e3 * fit['seconds_per_step']:.1f}",
            _percent(fit["busy"]),
        ]
        body.append([*row, f"{fit['peak_bytes'] / 2**20:,.0f}", f"{fit['once_seconds']:.1f}"])
    titles = ["Precision", "Steps", "Kept representations", "Fit images/s", "Bound images/s", "Share of bound"]
    titles += ["Of the replayed bound", "ms per step", "Busy", "Peak MiB", "Once s"]
    return [head, "", BOUND, "", tabulate(body, titles, tablefmt="github", disable_numparse=True)]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def costs(records: Sequence[Record]) -> str:
    """Return a table of what every cell took; cells without numbers say why."""
    clock = next((r.cost.clock for r in records if r.cost), "wall")
    titles = ["Model", "Stage", "Method", "PSNR dB", f"Fit s ({clock})", "Fit images/s", "Busy", "Invert ms/image"]
    titles += ["Invert images/s", "Busy", "Peak MiB"]
    body = [[r.cell.model, r.cell.stage, r.cell.method, *_cost(r)] for r in records]
    return tabulate(body, titles, tablefmt="github", disable_numparse=True)


def _cost(record: Record) -> list[str]:
    cost, psnr = record.cost, record.measurements.get("psnr")
    if not record.ok or cost is None:
        return [f"{record.status}: {(record.reason or '').splitlines()[0][:100]}", *[""] * 7]
    seconds, each = cost.fit_seconds + cost.fit_shared_seconds, cost.invert_seconds_per_image
    value = f"{psnr.mean:.2f}" if psnr is not None and psnr.mean is not None else "-"
    fit = f"{cost.fit_image_passes / seconds:,.0f}" if seconds and cost.fit_image_passes else "-"
    invert = f"{1 / each:,.0f}" if each else "-"
    peak = max(cost.fit_peak_bytes, cost.invert_peak_bytes) / 2**20
    of_fit = [f"{seconds:.2f}", fit, _percent(cost.fit_busy)]
    return [value, *of_fit, f"{1e3 * each:.2f}", invert, _percent(cost.invert_busy), f"{peak:,.0f}"]


if __name__ == "__main__":
    main()
