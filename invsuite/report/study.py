"""The page of a blind study: reconstructions side by side, and nothing that tells whose they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from invsuite.report.html import environment
from invsuite.report.pictures import Pictures, strip
from invsuite.report.study_design import CHOICES, FORMAT, Pair
from invsuite.results.record import Record
from invsuite.results.store import Store

SIDES = (256, 128)  # pixels of the longer side: people look closely
QUALITY = 95


def study_page(
    suite: str, study: str, pairs: Sequence[Pair], records: Sequence[Record], store: Store, seed: int
) -> str:
    """The page.

    Args:
        study: what the answers name, so that they meet the right key.
        pairs: in the order in which they are asked.
        records: of all cells of the pairs.
        seed: of the order of the pictures in the page, which would else tell how they were collected.
    """
    by_id = {r.cell.id: r for r in records}
    made = {cell: strip(store, by_id[cell]) for pair in pairs for cell in (pair.left, pair.right)}
    originals = {pair.model: strip(store, by_id[pair.left], original=True) for pair in pairs}
    pictures = Pictures()
    asked = [
        [pictures.add(part[pair.image]) for part in (originals[pair.model], made[pair.left], made[pair.right])]
        for pair in pairs
    ]
    order = np.random.default_rng([seed, 1]).permutation(len(pictures.pixels))
    encoded = pictures.encode(SIDES, QUALITY)
    place = np.argsort(order)
    page = {
        "format": FORMAT,
        "suite": suite,
        "study": study,
        "choices": CHOICES,
        "pairs": [[int(place[number]) for number in each] for each in asked],
        "pictures": [encoded[number] for number in order],
    }
    return environment().get_template("study.html").render(title="Which reconstruction keeps more?", page=page)
