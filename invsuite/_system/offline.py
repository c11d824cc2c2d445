"""The promise of ``--offline``: hub clients answer from their caches or not at all."""

from __future__ import annotations

import os
import sys

SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")


def go_offline() -> None:
    """Switch every hub client of this process, and of those it starts, to its cache."""
    for name in SWITCHES:
        os.environ[name] = "1"
    # a client that was imported before has read its switch already
    for module, name in (
        ("huggingface_hub.constants", "HF_HUB_OFFLINE"),
        ("datasets.config", "HF_HUB_OFFLINE"),
        ("datasets.config", "HF_DATASETS_OFFLINE"),
    ):
        if module in sys.modules:
            setattr(sys.modules[module], name, True)


def is_offline() -> bool:
    """Whether hub clients were told to stay in their caches."""
    return os.environ.get(SWITCHES[0], "").upper() in ("1", "ON", "YES", "TRUE")
