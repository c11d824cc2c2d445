"""Work that a GPU repeats without waiting for Python: a CUDA graph is captured once and replayed.

Training steps of small networks, the frozen forward and the steps of a descent are hundreds of kernels that each take
less time than their launch. A graph launches them together; they are the same kernels, with the same numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch

ROOM = 0.5  # part of a GPU's memory that must be free for another graph: each keeps what it needs between replays

Function = Callable[..., Sequence[torch.Tensor]]
Signature = list[tuple[torch.Size, torch.dtype, tuple[int, ...]]]


def can_capture(device: torch.device) -> bool:
    """Tell whether work on ``device`` can be captured."""
    return device.type == "cuda" and torch.cuda.is_initialized()


class Replay:
    """A function of tensors that is captured on its third call with tensors of one kind, and replayed from then on.

    The first call warms up. The second one runs under watch: a function that waits for the GPU cannot be captured, and
    runs as it is, then and ever after; so does one for which the GPU has no room. What a function does beside returning
    tensors (moving weights, say) is repeated by every replay, and so must read nothing from the processor but what
    stays the same.

    The tensors that are returned are overwritten by the next call.

    Args:
        function: of tensors, returns tensors; it may be called again where the watched call has ended in the middle.
        device: of the tensors.
        wanted: whether to capture at all; a processor never does.

    Attributes:
        captures: whether it is captured, as far as is known.
    """

    def __init__(self, function: Function, device: torch.device, wanted: bool = True) -> None:
        self._function, self.captures = function, wanted and can_capture(device)
        self._calls = 0
        self._signature: Signature = []
        self._given: list[torch.Tensor] = []
        self._returned: Sequence[torch.Tensor] = ()
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stream = torch.cuda.Stream(device) if self.captures else None

    def __call__(self, *tensors: torch.Tensor) -> Sequence[torch.Tensor]:
        """Return what the function does, of tensors."""
        if not self.captures:
            return self._function(*tensors)
        signature = [(tensor.shape, tensor.dtype, tensor.stride()) for tensor in tensors]
        if signature != self._signature:
            self._signature, self._calls, self._graph = signature, 0, None
        self._calls += 1
        if self._calls == 1:
            return self._beside(tensors)
        if self._calls == 2:
            return self._watched(tensors)
        if self._graph is None:
            free, total = torch.cuda.mem_get_info(tensors[0].device)
            if free < ROOM * total:
                self.captures = False
                return self._function(*tensors)
            self._capture(tensors)
        elif self._given:
            torch._foreach_copy_(self._given, tensors)
        assert self._graph is not None
        self._graph.replay()
        return self._returned

    def _beside(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """Run the function on the stream that will capture it, so that what it sets up is set up there."""
        assert self._stream is not None
        here = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            returned = self._function(*tensors)
        here.wait_stream(self._stream)
        for tensor in tensors:
            tensor.record_stream(self._stream)
        for tensor in returned:
            tensor.record_stream(here)
        return returned

    def _watched(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """Run the function once more, and let it be if it waits for the GPU."""
        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls the watch a prototype
            torch.cuda.set_sync_debug_mode("error")
        try:
            return self._beside(tensors)
        except RuntimeError as error:
            if "synchronizing" not in str(error):
                raise
            self.captures = False
        finally:
            torch.cuda.set_sync_debug_mode(before)
        return self._function(*tensors)

    def _capture(self, tensors: Sequence[torch.Tensor]) -> None:
        self._given = [tensor.clone() for tensor in tensors]
        graph = torch.cuda.CUDAGraph()
        # other threads go on loading images meanwhile
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            self._returned = self._function(*self._given)
        self._graph = graph
