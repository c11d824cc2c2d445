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

from invsuite._system.files import write_atomically
from invsuite.report.pictures import StoreOf, original_path
from invsuite.results.record import Record


def draw_strip(model: str, records: Sequence[Record], store_of: StoreOf, path: Path) -> bool:
    """Draw the strip of ``model``, its first seed, from the reconstructions kept beside its ``records``.

    Returns:
        False if no reconstruction is there to draw.
    """
    rows = [r for r in records if r.ok]
    files = {
        (r.cell.stage, r.cell.method): file
        for r in rows
        if (file := store_of(r).strip_path(r.cell.id)).is_file() and r.cell.seed == rows[0].cell.seed
    }
    original = next((file for r in rows if (file := original_path(store_of(r), r)).is_file()), None)
    if not files or original is None:
        return False
    stages, methods = (list(dict.fromkeys(key[part] for key in files)) for part in (0, 1))
    pictures = {key: np.asarray(Image.open(file)) for key, file in files.items()}
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
