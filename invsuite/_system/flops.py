"""Floating-point operations of a piece of work, counted by the formulas of ``torch.utils.flop_counter``.

One multiply-add counts as two; only matrix products, convolutions and attention count. Attention runs by its plain
formula while counting, so that the count is the same on every device, whichever kernel does the real work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

#: operators that are not made of others, which a counter finds out by trying
_WHOLE: set[Any] = set()


class _Counter(TorchDispatchMode):
    """Adds up the operations of all that runs inside it.

    It is torch's ``FlopCounterMode`` without its books by module and operator, which take longer than the work of
    small networks.
    """

    def __init__(self, formulas: Mapping[Any, Callable[..., int]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._formulas = formulas
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operator, or those that it is made of."""
        kwargs = kwargs or {}
        if func not in _WHOLE:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
            _WHOLE.add(func)
        result = func(*args, **kwargs)
        formula = self._formulas.get(func.overloadpacket)
        if formula is not None:
            self.flops += int(formula(*args, **kwargs, out_val=result))
        return result


def count_flops(work: Callable[[], object]) -> int:
    """Run ``work`` once and return its operations, those of backward passes included."""
    from torch.utils.flop_counter import flop_registry  # which imports a compiler, and is not always needed

    counter = _Counter(flop_registry)
    with sdpa_kernel(SDPBackend.MATH), counter:
        work()
    return counter.flops
