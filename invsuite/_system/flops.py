"""Floating-point operations of a piece of work, counted by ``torch.utils.flop_counter``.

One multiply-add counts as two; only matrix products, convolutions and attention count. Attention runs by its plain
formula while counting, so that the count is the same on every device, whichever kernel does the real work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.nn.attention import SDPBackend, sdpa_kernel


class _NoModules:
    """What stands in for the counter's tracker of modules, whose hooks take as long as the work of small networks.

    Operations are wanted in all, not by module.
    """

    parents = ("Global",)  # the counter's word for all modules together

    def __enter__(self) -> None: ...

    def __exit__(self, *error: Any) -> None: ...


def count_flops(work: Callable[[], object]) -> int:
    """Run ``work`` once and return its operations, those of backward passes included."""
    from torch.utils.flop_counter import FlopCounterMode  # which imports a compiler, and is not always needed

    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _NoModules()  # type: ignore[assignment]
    with sdpa_kernel(SDPBackend.MATH), counter:
        work()
    return int(counter.get_total_flops())
