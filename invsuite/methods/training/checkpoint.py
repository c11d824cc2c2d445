"""State of a training on disk: tensors in safetensors, everything else as JSON in the same file's header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from invsuite._system.files import write_atomically


@dataclass
class Checkpoint:
    """Named groups of tensors and facts, written whole or not at all.

    Attributes:
        path: the file; None keeps nothing.
        signature: what the state belongs to; a file with another signature is not loaded.
        facts: whatever JSON holds.
    """

    path: Path | None
    signature: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)
    _tensors: dict[str, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def at(cls, folder: Path | None, part: str, signature: dict[str, Any]) -> Checkpoint:
        """The checkpoint of one training of a fit in ``folder``, or one that keeps nothing."""
        return cls(None if folder is None else folder / f"training-{part}.safetensors", signature)

    def put(self, group: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Set a group's tensors."""
        for name, tensor in tensors.items():
            self._tensors[f"{group}:{name}"] = tensor.detach().cpu().contiguous()

    def get(self, group: str, device: torch.device) -> dict[str, torch.Tensor]:
        """A group's tensors, none if it was never put."""
        prefix = f"{group}:"
        return {k.removeprefix(prefix): v.to(device) for k, v in self._tensors.items() if k.startswith(prefix)}

    def save(self) -> None:
        """Write the file.

        Raises:
            SetupError: if the disk refuses.
        """
        if self.path is None:
            return
        header = {"signature": json.dumps(self.signature, sort_keys=True), "facts": json.dumps(self.facts)}
        # one clone a tensor: the format refuses tensors that share memory
        write_atomically(self.path, save({k: v.clone() for k, v in self._tensors.items()}, header))

    def load(self) -> bool:
        """Read the file; False if there is none, it is damaged, or it belongs to something else."""
        if self.path is None or not self.path.is_file():
            return False
        try:
            with safe_open(str(self.path), "pt") as file:
                header = file.metadata() or {}
                if header.get("signature") != json.dumps(self.signature, sort_keys=True):
                    return False
                self.facts = json.loads(header["facts"])
                self._tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, json.JSONDecodeError):
            return False
        return True
