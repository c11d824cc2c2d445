"""Floating-point operations of a piece of work, counted by ``torch.utils.flop_counter``.

One multiply-add counts as two; only matrix products, convolutions and attention count. Attention runs by its plain
formula while counting, so that the count is the same on every device, whichever kernel does the real work.
"""

from __future__ import annotations

from collections.abc import Callable

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def count_flops(work: Callable[[], object]) -> int:
    """Run ``work`` once and return its operations, those of backward passes included."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())
