"""Strips of pictures: for each model one PNG, original above, methods down, stages across."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from invsuite.files import write_atomically
from invsuite.store import Record, Store


def draw_strip(model: str, records: Sequence[Record], store: Store, path: Path) -> bool:
    """Draw the strip of ``model`` from the reconstructions kept beside its records.

    Returns:
        False if no reconstruction is there to draw.
    """
    rows = [r["cell"] for r in records if r["cell"]["model"] == model and r["status"] == "ok"]
    rows = [c for c in rows if store.strip_path(c["id"]).is_file() and c["seed"] == rows[0]["seed"]]
    original = store.strip_path(f"{model}-original")
    if not rows or not original.is_file():
        return False
    stages = list(dict.fromkeys(c["stage"] for c in rows))
    methods = list(dict.fromkeys(c["method"] for c in rows))
    pictures = {(c["stage"], c["method"]): np.asarray(Image.open(store.strip_path(c["id"]))) for c in rows}
    shown = np.asarray(Image.open(original))
    aspect = shown.shape[1] / shown.shape[0]
    height = 0.85
    size = (height * aspect * len(stages) + 1.6, height * (len(methods) + 1) + 0.5)
    figure, axes = plt.subplots(len(methods) + 1, len(stages), figsize=size, squeeze=False, layout="compressed")
    for column, stage in enumerate(stages):
        axes[0][column].set_title(stage, fontsize=10)
        for row, method in enumerate(["original", *methods]):
            axis = axes[row][column]
            picture = shown if method == "original" else pictures.get((stage, method))
            if picture is not None:
                axis.imshow(picture, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            for spine in axis.spines.values():
                spine.set_visible(False)
            if column == 0:
                axis.set_ylabel(method, rotation=0, ha="right", va="center", fontsize=9)
    figure.suptitle(f"{model}: reconstructions from each stage", fontsize=11)
    save(figure, path)
    plt.close(figure)
    return True


def save(figure: plt.Figure, path: Path) -> None:
    """Write a figure as PNG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    write_atomically(path, buffer.getvalue())
