"""A GPU that is not there: tensors on it are computed by the processor, and may not meet tensors that are not on it.

`pretended_gpu` lets a processor run what would run on CUDA, with the same numbers, and raises where CUDA would: where
tensors of two devices meet, and where NumPy is given a tensor of a GPU. It says nothing of CUDA's own kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch._dynamo  # by whoever steps first: under the mode it would not load
from torch import nn
from torch.overrides import TorchFunctionMode

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
MOVED = ("cpu", "cuda", "to")
INDEXED = ("__getitem__", "__setitem__")  # by tensors of the processor too
#: their result is where the first tensor is, wherever the others are
OF_FIRST = ("copy_", "_has_compatible_shallow_copy_type", "__deepcopy__", "__repr__", "new_tensor", "type_as")
CAPTURE_CHECKS = ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check")  # of optimisers
TAG = "_on_pretended_gpu"  # attribute of tensors that are on it


def on_gpu(tensor: torch.Tensor) -> bool:
    return getattr(tensor, TAG, False)


def put(tensor: torch.Tensor, there: bool) -> torch.Tensor:
    setattr(tensor, TAG, there)
    return tensor


def tensors_in(tree: Any) -> Iterator[torch.Tensor]:
    """All tensors of arguments or results, however deep in lists and tables."""
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from tensors_in(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from tensors_in(value)


class Pretended(TorchFunctionMode):
    """The mode: every function of torch, and every attribute of a tensor, goes through here."""

    def __init__(self) -> None:
        super().__init__()
        self.generators: list[torch.Generator] = []  # those that are on the GPU
        self.calls = 0  # on tensors of the GPU

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name == "__get__":
            return self._attribute(func, args)
        if name == "__set__":
            result = func(*args, **kwargs)
            if isinstance(args[1], torch.Tensor) and func.__self__.__name__ == "data":
                put(args[0], on_gpu(args[1]))
            return result
        if name == "pin_memory":
            return args[0]
        if name in MOVED and args and isinstance(args[0], torch.Tensor):
            return self._moved(name, *args, **kwargs)
        if name in ("numpy", "__array__", "from_numpy") and any(map(on_gpu, tensors_in(args))):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()")
        there = self._place(name, args, kwargs)
        self.calls += there
        result = func(*args, **kwargs)
        for tensor in tensors_in(result):
            if not any(tensor is given for given in tensors_in(args)):
                put(tensor, there)
        return result

    def _attribute(self, func: Any, args: Any) -> Any:
        attribute, tensor = func.__self__.__name__, args[0]
        if attribute == "device":
            return GPU if on_gpu(tensor) else CPU
        if attribute == "is_cuda":
            return on_gpu(tensor)
        result = func(*args)
        if isinstance(result, torch.Tensor) and result is not tensor:
            put(result, on_gpu(tensor))
        return result

    def _moved(self, name: str, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        there, rest = on_gpu(tensor), list[Any]()
        if name != "to":
            there = name == "cuda"
        else:
            for arg in args:
                if arg is None or isinstance(arg, bool):  # whether to wait, which no value depends on
                    continue
                if isinstance(arg, str | torch.device | int):
                    there = torch.device(arg).type == "cuda"
                elif isinstance(arg, torch.Tensor):
                    there = on_gpu(arg)
                    rest.append(arg.dtype)
                else:
                    rest.append(arg)
            if kwargs.get("device") is not None:
                there = torch.device(kwargs["device"]).type == "cuda"
            kwargs.pop("device", None)
        kwargs.pop("non_blocking", None)
        result = torch.Tensor.to(tensor, *rest, **kwargs) if rest or kwargs else tensor
        if there != on_gpu(tensor) and result is tensor:
            result = tensor.clone()
        return result if result is tensor else put(result, there)

    def _place(self, name: str, args: Any, kwargs: dict[str, Any]) -> bool:
        """Whether the result will be on the GPU; a ``device`` is taken out of ``kwargs``."""
        asked, given = kwargs.pop("device", None), list(tensors_in((args, kwargs)))
        there = any(map(on_gpu, given))
        if asked is not None:
            there = torch.device(asked).type == "cuda"
        elif name in INDEXED:
            there = on_gpu(args[0])
            indices, value = list(tensors_in(args[1])), args[2] if name == "__setitem__" else None
            if not there and any(map(on_gpu, indices)):
                raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
            strange = isinstance(value, torch.Tensor) and value.dim() > 0 and on_gpu(value) != there
            if strange and indices:
                raise RuntimeError("Index put requires the source and destination on one device")
        elif name in OF_FIRST:
            there = on_gpu(args[0])
        elif there and any(not on_gpu(tensor) and tensor.dim() > 0 for tensor in given):
            shapes = [(tuple(tensor.shape), "cuda" if on_gpu(tensor) else "cpu") for tensor in given]
            raise RuntimeError(f"Expected all tensors to be on the same device, in {name}: {shapes}")
        generator = kwargs.get("generator")
        if generator is not None and there != any(generator is own for own in self.generators):
            raise RuntimeError(f"Expected a generator of the device {GPU if there else CPU}, in {name}")
        return there


GENERATOR = torch.Generator


class Generators(type):
    """A class in whose place every generator is made by the mode, so that those of the GPU are known."""

    mode: Pretended

    def __call__(cls, device: Any = "cpu") -> torch.Generator:
        made = GENERATOR()
        if torch.device(device).type == "cuda":
            cls.mode.generators.append(made)
        return made

    def __instancecheck__(cls, thing: Any) -> bool:
        return isinstance(thing, GENERATOR)


class Event:
    """An event that took no time."""

    def __init__(self, enable_timing: bool = False) -> None:
        pass

    def record(self, stream: Any = None) -> None:
        pass

    def elapsed_time(self, end: Any) -> float:
        return 1.0


@contextmanager
def pretended_gpu() -> Iterator[Pretended]:
    """Let there be one GPU."""
    mode, new = Pretended(), nn.Parameter.__new__

    def parameter(cls: Any, data: Any = None, requires_grad: bool = True) -> Any:
        made = new(cls, data, requires_grad)
        return put(made, data is not None and on_gpu(data))

    def quiet(*args: Any, **kwargs: Any) -> None:
        """Do nothing."""

    answers: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_stream": lambda device=None: None,
        "get_device_name": lambda device=None: "a pretended GPU",
        "mem_get_info": lambda device=None: (2**33, 2**34),
        "max_memory_allocated": lambda device=None: 2**20,
        "memory_allocated": lambda device=None: 2**20,
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "Event": Event,
    }
    answers |= dict.fromkeys(("synchronize", "empty_cache", "reset_peak_memory_stats", "set_rng_state"), quiet)
    with ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(patch.object(torch.cuda, name, answer))
        for name in CAPTURE_CHECKS:
            if hasattr(torch.optim.Optimizer, name):
                stack.enter_context(patch.object(torch.optim.Optimizer, name, quiet))
        stack.enter_context(patch.object(torch, "Generator", Generators("Generator", (), {"mode": mode})))
        stack.enter_context(patch.object(nn.Parameter, "__new__", parameter))
        # other threads, where the mode does not reach, pin memory too
        stack.enter_context(patch.object(torch.Tensor, "pin_memory", lambda tensor: tensor))
        stack.enter_context(mode)
        yield mode
