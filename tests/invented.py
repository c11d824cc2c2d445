"""Records and measurements of invented numbers, in the form of real ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from invsuite.registry import METRICS
from invsuite.results.record import CellCost, CellName, DataCounts, Measurement, Provenance, Record, Weights
from invsuite.results.statistics import summarise

TITLE = "tiny: a suite for tests"
PROVENANCE = Provenance(
    git={"sha": "c" * 40, "dirty": True},
    source_sha256="b" * 64,
    versions={"torch": "2.0"},
    plugins=(),
    platform="Linux",
    device="CPU (test)",
    threads=2,
    seed=0,
    deterministic=True,
    tf32=False,
    written="2026-01-01T00:00:00+00:00",
)


def measurement(name: str, values: Sequence[float | None] = (), **facts: Any) -> Measurement:
    """Return a measurement of a measure, registered or not, with these values per image and their mean."""
    registered = name in METRICS
    cls: Any = METRICS[name] if registered else None
    described = {
        "identity": "0" * 12,
        "label": getattr(cls, "label", name.capitalize()),
        "unit": getattr(cls, "unit", ""),
        "direction": getattr(cls, "direction", "higher"),
        "group": getattr(cls, "group", "Fidelity"),
        "digits": getattr(cls, "digits", 3),
        "tolerance": getattr(cls, "tolerance", 0.01),
        "headline": getattr(cls, "headline", False),
        "description": "What it measures.",
        "version": 1,
        "pooled": False,
        "status": "ok",
    }
    if values and "mean" not in facts:
        whole = summarise(values)
        described |= {"n": whole.n, "mean": whole.mean, "low": whole.low, "high": whole.high}
    return Measurement(name, values=list(values), **(described | facts))


def record(
    model: str = "vit",
    stage: str = "embed",
    method: str = "ridge",
    seed: int = 0,
    measurements: Sequence[Measurement] = (),
    images: int = 16,
    status: str = "ok",
    **more: Any,
) -> Record:
    """Return a record of a cell with these measurements; one without numbers says that it broke."""
    cell_id = f"{model}-{stage}-{method}-s{seed}-0123456789ab"
    cell = CellName(cell_id, "tiny", model, stage, 0, method, method, "closed form", seed, title=TITLE)
    if status != "ok":
        return Record(cell, {"seed": seed}, status, PROVENANCE, reason="it broke", **more)  # type: ignore[arg-type]
    body: dict[str, Any] = {
        "measurements": {m.name: m for m in measurements},
        "images": [f"scene-{i}" for i in range(images)],
        "data": DataCounts(100, 8, images),
        "weights": Weights(f"bundled {model}", "a" * 64),
        "cost": CellCost(
            "wall",
            fit_seconds=1.0,
            fit_shared_seconds=0.5,
            fit_image_passes=100,
            parameters=1234,
            invert_seconds_per_image=0.01,
            invert_cpu_seconds_per_image=0.02,
            invert_peak_bytes=2**30,
            fit_peak_bytes=2**29,
        ),
    }
    return Record(cell, {"seed": seed, "image_size": [24, 24]}, "ok", PROVENANCE, **(body | more))
