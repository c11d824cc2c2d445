"""Silence of other libraries between the suite's own lines."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

LIBRARIES = ("timm", "transformers", "huggingface_hub")
#: the modules that switch progress bars: how to ask, to switch off, to switch on; transformers counts the other way
BARS = (
    ("huggingface_hub.utils", "are_progress_bars_disabled", "disable_progress_bars", "enable_progress_bars", True),
    ("transformers.utils.logging", "is_progress_bar_enabled", "disable_progress_bar", "enable_progress_bar", False),
)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep `LIBRARIES` from logging and from progress bars, and everybody from warnings, for a while."""
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for name in LIBRARIES:
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)
        for module, ask, off, on, disabled in BARS:
            switches: Any = sys.modules.get(module)
            if switches is not None and getattr(switches, ask)() is not disabled:
                getattr(switches, off)()
                stack.callback(getattr(switches, on))
        yield
