"""Results against a pinned baseline: one verdict per cell and measure. Time is never a gate.

A measure is *worse* when the mean of the paired per-image differences is worse by more than its tolerance and the
whole 95 % interval of those differences is on the worse side; *better* the same way round. Cells that a baseline
has and the results lack are *missing*, which is as bad as worse; cells whose data, weights or method differ from
the baseline's are *not comparable*, which asks for a new baseline and fails the check as well.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from invsuite.errors import UsageError
from invsuite.files import write_atomically
from invsuite.statistics import distance_from_best, summarise
from invsuite.store import Record

Verdict = Literal["same", "better", "worse", "newly failing", "fixed", "missing", "new", "not comparable"]
BAD: frozenset[Verdict] = frozenset({"worse", "newly failing", "missing", "not comparable"})

#: What a mean may lose before it counts, in the measure's own unit. Training on another processor gives other
#: rounding and so slightly other networks; these are about three times what that was seen to move.
TOLERANCES = {
    "psnr": 0.3,
    "ssim": 0.02,
    "lpips": 0.02,
    "correspondence": 0.4,
    "centroid_shift": 1.5,
    "change_auc": 0.03,
    "leak": 0.04,
    "boundary_f": 0.03,
    "patch_match": 0.05,
    "patch_match_1": 0.05,
    "patch_match_2": 0.05,
    "affinity_correlation": 0.03,
    "object_unity": 0.04,
    "hue_gain": 0.15,
    "hue_gain_image": 0.15,
    "hue_gain_lch": 0.15,
    "chroma_gain": 0.1,
    "chroma_gain_grey": 0.1,
    "colour_gain_set": 0.1,
    "colour_gain_swap": 0.1,
    "colour_gain_swap_image": 0.1,
    "delta_e": 1.0,
    "colour_leak": 0.05,
    "representation_shift": 0.01,
    "pull_to_prototype": 0.2,
    "ms_ssim": 0.02,
    "lpips_vgg": 0.02,
    "dists": 0.02,
    "feature_error": 0.03,
    "witness_error": 0.03,
    "top1_agreement": 0.1,
    "top5_agreement": 0.1,
    "js_divergence": 0.05,
    "detector_ap": 0.05,
    "detector_self_ap": 0.05,
    "detector_recall_small": 0.05,
    "detector_recall_medium": 0.05,
    "detector_recall_large": 0.05,
    "cross_application": 0.3,
}
BASELINE_SCHEMA = 1


@dataclass(frozen=True)
class Finding:
    """A verdict on one measure of one cell (``measure`` is empty where the whole cell is meant)."""

    cell: str
    measure: str
    verdict: Verdict
    detail: str

    @property
    def bad(self) -> bool:
        return self.verdict in BAD


def cell_key(record: Record) -> str:
    """model/stage/method/seed: what a baseline and a result have in common."""
    cell = record["cell"]
    return f"{cell['model']}/{cell['stage']}/{cell['method']}/s{cell['seed']}"


def pin(records: Sequence[Record], path: Path) -> None:
    """Write the records' quality values as the baseline ``path``."""
    cells = {}
    for record in records:
        measures = {
            name: {k: found[k] for k in ("status", "version", "direction", "mean", "n", "values") if k in found}
            for name, found in record.get("metrics", {}).items()
        }
        cells[cell_key(record)] = {
            "id": record["cell"]["id"],
            "status": record["status"],
            "images": record.get("images", []),
            "measures": measures,
        }
    origin = records[0]["provenance"] if records else {}
    tree = {
        "schema": BASELINE_SCHEMA,
        "suite": records[0]["cell"]["suite"] if records else "",
        "origin": {k: origin.get(k) for k in ("git", "source_sha256", "versions", "device", "threads")},
        "tolerances": TOLERANCES,
        "cells": cells,
    }
    write_atomically(path, (json.dumps(tree, indent=1) + "\n").encode())


def load_baseline(path: Path) -> dict[str, Any]:
    """Read a baseline.

    Raises:
        UsageError: if it is not there or not a baseline of this schema.
    """
    try:
        tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"baseline '{path}' cannot be read ({error.strerror}); pin one with: invsuite baseline"
        ) from error
    except json.JSONDecodeError as error:
        raise UsageError(f"baseline '{path}' is not JSON: {error}") from error
    if tree.get("schema") != BASELINE_SCHEMA:
        raise UsageError(f"baseline '{path}' has schema {tree.get('schema')}, expected {BASELINE_SCHEMA}; pin it again")
    return tree


def compare(records: Sequence[Record], baseline: dict[str, Any]) -> list[Finding]:
    """Verdicts for every cell of the baseline and every new cell."""
    found = {cell_key(r): r for r in records}
    findings: list[Finding] = []
    for key, pinned in baseline["cells"].items():
        findings += _compare_cell(key, pinned, found.get(key), baseline["tolerances"])
    for key in found.keys() - baseline["cells"].keys():
        findings.append(Finding(key, "", "new", "not in the baseline"))
    return findings


def _compare_cell(
    key: str, pinned: dict[str, Any], record: Record | None, tolerances: dict[str, float]
) -> list[Finding]:
    if record is None:
        return [Finding(key, "", "missing", "the baseline has this cell, the results have not")]
    if record["status"] != "ok":
        verdict: Verdict = "newly failing" if pinned["status"] == "ok" else "same"
        return [Finding(key, "", verdict, f"{record['status']}: {record['reason']}")]
    if pinned["status"] != "ok":
        return [Finding(key, "", "fixed", f"was {pinned['status']}")]
    if record["cell"]["id"] != pinned["id"]:
        return [
            Finding(key, "", "not comparable", f"identity {record['cell']['id'][-12:]}, pinned {pinned['id'][-12:]}")
        ]
    findings = []
    for name, before in pinned["measures"].items():
        after = record["metrics"].get(name)
        if before["status"] != "ok":
            continue
        if after is None or after["status"] != "ok":
            state = after["status"] if after else "absent"
            findings.append(Finding(key, name, "newly failing", f"{state}: {after['reason'] if after else ''}"))
        elif after["version"] != before["version"]:
            findings.append(
                Finding(key, name, "not comparable", f"version {after['version']}, was {before['version']}")
            )
        else:
            findings.append(_compare_values(key, name, before, after, tolerances.get(name, 0.0)))
    return findings


def _compare_values(key: str, name: str, before: dict[str, Any], after: dict[str, Any], tolerance: float) -> Finding:
    direction = before["direction"]
    pairs = [(b, a) for b, a in zip(before["values"], after["values"], strict=True) if b is not None and a is not None]
    # positive: the new value is worse
    loss = summarise([distance_from_best(direction, a) - distance_from_best(direction, b) for b, a in pairs])
    detail = f"{before['mean']:.3f} -> {after['mean']:.3f} (n={loss.n}, tolerance {tolerance})"
    if loss.n < before["n"]:
        return Finding(key, name, "newly failing", f"defined for {loss.n} of {before['n']} images; {detail}")
    if loss.mean is None or abs(loss.mean) <= tolerance:
        return Finding(key, name, "same", detail)
    low, high = (loss.mean if v is None else v for v in (loss.low, loss.high))
    if low > 0:
        return Finding(key, name, "worse", detail)
    if high < 0:
        return Finding(key, name, "better", detail)
    return Finding(key, name, "same", detail)


def summary(findings: Sequence[Finding]) -> str:
    """Counts, then every finding that is not "same", the bad ones first."""
    counts = Counter(f.verdict for f in findings)
    lines = [", ".join(f"{n} {verdict}" for verdict, n in sorted(counts.items())) or "nothing to compare"]
    for finding in sorted(findings, key=lambda f: (not f.bad, f.cell, f.measure)):
        if finding.verdict != "same":
            lines.append(f"  {finding.verdict}: {finding.cell} {finding.measure} {finding.detail}".replace("  ", " "))
    return "\n".join(lines)
