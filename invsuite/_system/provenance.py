"""Where a number comes from: code, versions, device, precision and determinism."""

from __future__ import annotations

import hashlib
import platform
import subprocess
import warnings
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

import psutil
import torch

from invsuite._system.devices import use_full_precision
from invsuite.registry import loaded_plugins

PACKAGES = (
    "invsuite",
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "torchmetrics",
    "lpips",
    "scikit-image",
    "numpy",
    "pillow",
    "pycocotools",
    "safetensors",
    "onnxruntime",
)


@lru_cache(maxsize=1)
def source_digest() -> str:
    """Return the SHA-256 of the package's own Python files: it tells two versions apart where there is no git."""
    root = Path(str(files("invsuite")))
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()


@lru_cache(maxsize=1)
def git_state() -> dict[str, Any]:
    """Return commit and dirty flag of the checkout that the package runs from; both None for an installed package."""
    root = Path(str(files("invsuite"))).parent

    def git(*words: str) -> str:
        run = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=20)
        return run.stdout.strip()

    try:
        if git("ls-files", "--error-unmatch", "invsuite/__init__.py"):
            return {"sha": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", "invsuite"))}
    except (OSError, subprocess.SubprocessError):
        pass
    return {"sha": None, "dirty": None}


@lru_cache(maxsize=1)
def versions() -> dict[str, str | None]:
    """Return the versions of the packages that make the numbers; None where one is not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return versions


def device_name(device: torch.device) -> str:
    """Return the device as a person would name it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({platform.machine()}, {psutil.cpu_count(logical=True)} cores)"


def set_determinism(seed: int) -> None:
    """Seed torch and ask for deterministic kernels in full float32 precision, where there are any.

    On a GPU a record says that its numbers are not deterministic, so that torch need not say which kernel is not.
    """
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = False
    use_full_precision()
    torch.use_deterministic_algorithms(True, warn_only=True)
    warnings.filterwarnings("ignore", ".*(non-?deterministic|does not have a deterministic implementation)")
    # filling what is allocated takes one more kernel for every tensor
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _is_deterministic(device: torch.device) -> bool:
    """Tell whether the same run gives the same bits.

    On a GPU it does not: `set_determinism` lets kernels run there (of attention, say) whose sums have no order.
    """
    asked = torch.are_deterministic_algorithms_enabled()
    return asked and not (device.type == "cuda" and torch.is_deterministic_algorithms_warn_only_enabled())


def provenance_of(device: torch.device, seed: int) -> dict[str, Any]:
    """Return everything that a record says about its origin."""
    return {
        "git": git_state(),
        "source_sha256": source_digest(),
        "versions": versions(),
        "plugins": [{"plugin": plugin.name, "sha256": plugin.sha256} for plugin in loaded_plugins()],
        "platform": platform.platform(),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "seed": seed,
        "deterministic": _is_deterministic(device),
        "tf32": torch.backends.cuda.matmul.allow_tf32,
    }
