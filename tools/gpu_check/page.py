"""The page of a check: what the machine is, how fast fits are, every cell with its cost, and the suite's own tables."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from invsuite import load_results
from invsuite._system.devices import pick_device
from invsuite._system.provenance import device_name, git_state
from invsuite.results.record import Record

READING = """\
Seconds are by the clock named beside them: `cuda-event` is read from events on the GPU's own stream. **Fit images/s**
is a stage's image passes over its own seconds and those of the frozen passes that all stages of the fit shared;
**busy** is the share of the time in which the GPU ran something, as its driver says ten times a second, of the whole
fit and of the inversion of the scored images (`-`: shorter than a second, or not said)."""

BOUND = """\
The bound of a fit: an image costs no less than one forward and backward pass of the frozen model to the deepest stage,
and the operations of its inverses' training steps (counted) at the rate of a large matrix product in their precision;
all three are measured in the same process. A fit's rate is that of its steps: the difference of two fits of different
length, on decoded photos, without what happens once. `reduce-overhead` is `torch.compile` with CUDA graphs."""


def main(words: Sequence[str] | None = None) -> None:
    """Write ``NAME.md`` and ``NAME.csv``, called by the suite, into the folder of what comes back."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of the run")
    parser.add_argument("--out", type=Path, required=True, help="folder with steps.json and rate.json")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args(words)
    facts = json.loads((options.out / "steps.json").read_text())
    rate = options.out / "rate.json"
    timed = ["## How fast a fit is", "", *rates(json.loads(rate.read_text())), ""] if rate.is_file() else []
    name, title, cells = Path(facts["suite"]).stem, f"The suite {facts['suite']} left no records", list[str]()
    if (options.run / "records").is_dir():
        results = load_results(options.run)
        tables = options.run / "tables"
        results.report(tables)
        name, title = results.name, results.title
        cells = ["## What every cell took", "", READING, "", costs(results.records), "", "## Quality"]
        own = (tables / f"{name}.md").read_text().replace(f"# {title}", "", 1)
        for line in own.splitlines():
            if not line.startswith("!["):  # pictures of photos stay where their licence lets them be
                cells.append(f"#{line}" if line.startswith("## ") else line)
        (options.out / f"{name}.csv").write_bytes((tables / f"{name}.csv").read_bytes())
    lines = [f"# {title}", "", *machine(pick_device(options.device)), "", *_steps(facts["steps"]), "", *timed, *cells]
    (options.out / f"{name}.md").write_text("\n".join(lines).rstrip() + "\n")


def machine(device: torch.device) -> list[str]:
    """Return what the machine is, as lines."""
    facts = [f"Device: {device_name(device)}", f"torch {torch.__version__}"]
    if device.type == "cuda":
        known = torch.cuda.get_device_properties(device)
        facts += [f"CUDA {torch.version.cuda}", f"{known.total_memory / 2**30:.0f} GiB"]
        facts.append(f"{known.multi_processor_count} multiprocessors")
    sha = git_state()["sha"]
    return [", ".join(facts) + (f"; commit {sha[:12]}." if sha else ".")]


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
        f"{frozen['forward']:,.0f} images/s, forward and backward {frozen['forward_backward']:,.0f}. Matrix product: "
        + ", ".join(f"{products[name] / 1e12:,.3g} TFLOP/s in {name}" for name in products)
        + f". Clock: {facts['clock']}."
    )
    body = []
    for fit in facts["fits"]:
        precision, mode, cache = fit["variant"].split(":")
        row = [precision, mode, cache]
        if "problem" in fit:
            body.append([*row, fit["problem"].splitlines()[0][:120], *[""] * 6])
            continue
        row += [f"{fit[name]:,.0f}" for name in ("images_per_second", "bound_images_per_second")]
        row += [f"{fit['share_of_bound']:.2f}", f"{1e3 * fit['seconds_per_step']:.1f}", _percent(fit["busy"])]
        body.append([*row, f"{fit['peak_bytes'] / 2**20:,.0f}", f"{fit['once_seconds']:.1f}"])
    titles = ["Precision", "torch.compile", "Kept representations", "Fit images/s", "Bound images/s", "Share of bound"]
    titles += ["ms per step", "Busy", "Peak MiB", "Once s"]
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
