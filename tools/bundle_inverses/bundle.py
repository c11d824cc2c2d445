"""An inverse in as few bytes as cost no more than 0.05 dB at any of its stages, measured on the suite's scored images.

An inverse is made of parts: its modules, or the network or readout of each stage. For each, 8-bit integers are tried,
then these for its largest matrices alone, then 16-bit floats. What is written is loaded again and scored, so that its
card speaks of the bytes in the package.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from invsuite.apply.inverse import Inverse, load_inverse, pack, write_inverse
from invsuite.apply.places import bundled_folder
from invsuite.apply.precision import LEAST, Precision, reduced, whole
from invsuite.benchmark.suite import load_suite
from invsuite.data.sources import open_images
from invsuite.data.split import Split
from invsuite.single import score

COST = 0.05  # dB that fewer bytes may cost at a stage
Choice = tuple[Precision, int]  # precision, and the fewest values of a matrix that is stored as integers
WHOLE: Choice = ("float32", LEAST)
CHOICES: tuple[Choice, ...] = (("int8", LEAST), ("int8", 200_000), ("float16", LEAST))
METRICS = ("psnr", "ssim", "hue_gain", "chroma_gain")
LICENCE = "Apache-2.0"
Tensors = dict[str, torch.Tensor]


def bundle(folder: Path) -> Path:
    """Write the inverse in ``folder`` into the package in fewer bytes, with its own numbers on its card."""
    inverse = load_inverse(folder)
    images = scored_images(inverse)
    tensors = inverse.inverter.tensors()
    assert tensors is not None, "what was loaded has tensors"
    before = quality(inverse, tensors, images)
    chosen = dict.fromkeys(map(part_of, tensors), WHOLE)
    for part in chosen:
        for choice in CHOICES:
            candidate = chosen | {part: choice}
            after = quality(inverse, whole(stored(tensors, candidate)), images)
            if all(after[stage] >= before[stage] - COST for stage in before):
                chosen = candidate
                break
    place = bundled_folder(inverse.model.source, inverse.card.method.row)
    card = replace(inverse.card, quality={}, scored_on=None, licence=LICENCE)
    data = pack(stored(tensors, chosen))
    write_inverse(place, card, data, {})
    after = rescore(place)
    losses = ", ".join(f"{stage} {after[stage]:.2f} ({after[stage] - before[stage]:+.3f}) dB" for stage in before)
    print(f"{place.parent.name}/{place.name}: {len(data) / 2**20:.2f} MiB, {losses}; {chosen}", flush=True)
    return place


def rescore(place: Path) -> dict[str, float]:
    """Score the inverse in ``place`` on the suite's images, write the numbers on its card, and return PSNR by stage."""
    inverse = load_inverse(place)
    records = score(inverse, scored_images(inverse), METRICS, edits=load_suite("bundled").edits)
    inverse.card.with_quality(records).write(place)
    return {record.cell.stage: record.measurements["psnr"].mean or 0.0 for record in records}


def scored_images(inverse: Inverse) -> Split:
    """Return the scored images of the suite, which the inverse has not seen."""
    return open_images(load_suite("bundled").data.score, inverse.model.image_size, inverse.model.resampling)


def part_of(name: str) -> str:
    """Return the part that a tensor belongs to: what stands before the slash."""
    return name.partition("/")[0]


def stored(tensors: Tensors, chosen: dict[str, Choice]) -> Tensors:
    """Return tensors as they are stored after a choice for each part."""
    return {key: t for name, x in tensors.items() for key, t in reduced(name, x, *chosen[part_of(name)]).items()}


@torch.no_grad()
def quality(inverse: Inverse, tensors: Tensors, images: Split) -> dict[str, float]:
    """Return the mean PSNR over ``images`` at every stage of the inverse with these tensors."""
    notes = {stage: dict(own) for stage, own in inverse.card.notes.items()}
    inverter = inverse.method.restore(inverse.problem, tensors, notes)
    assert inverter is not None, "the same tensors, with other values"
    totals = dict.fromkeys(inverse.stages, 0.0)
    for batch in images.batches(32):
        representations = inverse.model.represent(batch, inverse.stages)
        for stage in inverse.stages:
            errors = (inverter.invert(representations[stage]) - batch).square().mean((1, 2, 3))
            totals[stage] += float((-10 * errors.clamp(min=1e-12).log10()).sum())
    return {stage: total / len(images) for stage, total in totals.items()}
