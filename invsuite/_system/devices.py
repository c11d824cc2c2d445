"""Devices by name."""

from __future__ import annotations

import os

import torch

from invsuite.errors import SetupError, UsageError

#: with workspaces of a fixed size products on a GPU are deterministic; cuBLAS reads it once, before the first of them
CUBLAS_WORKSPACES = ":4096:8"


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pick_device(name: str) -> torch.device:
    """Return the device of this name; ``auto`` is CUDA where there is one.

    Raises:
        UsageError: for a name torch does not know.
        SetupError: for a device this machine has not.
    """
    if name == "auto":
        return pick_device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device '{name}': use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device '{name}' is not supported: use auto, cpu, cuda or cuda:N")
    if device.type == "cuda":
        if (device.index or 0) >= torch.cuda.device_count():
            raise SetupError(f"device '{name}' is not there: this machine has {torch.cuda.device_count()} CUDA devices")
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACES)
        use_full_precision()
    return device


def use_full_precision() -> None:
    """Make a GPU's products and convolutions full float32; torch's own choice rounds convolutions to 10 bits (TF32)."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def pick_devices(names: str) -> list[torch.device]:
    """Return several devices, comma-separated; ``cuda``, and ``auto`` where there is CUDA, are all of the machine.

    Raises:
        UsageError: for a name torch does not know, or devices of two kinds, whose numbers differ.
        SetupError: for a device this machine has not.
    """
    devices = [pick_device(name.strip()) for name in names.split(",")]
    if len(devices) == 1 and devices[0].type == "cuda" and devices[0].index is None:
        return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    if len({device.type for device in devices}) > 1:
        raise UsageError(f"devices '{names}' are of two kinds: name CUDA devices, or cpu")
    return devices
