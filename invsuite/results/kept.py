"""What is kept beside the records of a suite, so that a measure can be added without inverting again.

Per cell the reconstructions of the scored images, and of every other batch of images that a measure had reconstructed
(edited images), as float32; per fit the tensors of its inverter. All of it is safetensors, none of it is needed to
render tables, and `invsuite prune` deletes it. Together it takes at most a stated number of bytes: what does not fit
is not kept, which costs time later and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from invsuite._system.files import write_atomically
from invsuite._system.spill import TensorLike, collect
from invsuite.errors import DiskError

LIMIT = 20 * 2**30  # bytes that all kept tensors of a suite may take, unless the run says otherwise
SHARD = 256 * 2**20  # bytes of rows in one file
Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class KeptInverter:
    """The tensors of a fit's inverter for ``stages``, by name, with the notes and the cost of the fit."""

    stages: list[str]
    tensors: dict[str, torch.Tensor]
    notes: dict[str, Any]
    cost: dict[str, Any]


@dataclass(frozen=True)
class InverterFile:
    """The file of a kept inverter for ``stages``, with the notes and the cost of the fit."""

    path: Path
    stages: list[str]
    notes: dict[str, Any]
    cost: dict[str, Any]


class KeptTensors:
    """Tensors by name in a folder, up to a number of bytes.

    Args:
        folder: where they are.
        limit: bytes that the folder may take in all; 0 keeps nothing.
        note: is told once when the limit bites.
    """

    def __init__(self, folder: Path, limit: int = LIMIT, note: Callable[[str], None] = lambda text: None) -> None:
        self.folder, self.limit, self._note = folder, limit, note
        self._bytes: int | None = None  # counted when something is to be kept
        self._full = False

    def keep_rows(self, owner: str, name: str, rows: TensorLike) -> None:
        """Keep ``rows`` (N, ...) of ``owner`` (a cell) under ``name``, in files of at most `SHARD` bytes."""
        if not self._room_for(rows[:1].nbytes * len(rows)):
            return
        per_file = max(1, SHARD // max(1, rows[:1].nbytes))
        parts = -(-len(rows) // per_file)
        for number, part in enumerate(rows.split(per_file)):
            order = "channels" if part.is_contiguous(memory_format=torch.channels_last) and part.ndim == 4 else ""
            header = {"rows": str(len(rows)), "files": str(parts), "last": order}
            self._write(owner, f"{name}-{number:05d}", {"rows": part}, header)

    def rows(self, owner: str, name: str, device: torch.device) -> TensorLike | None:
        """Return the kept rows on ``device``, laid out in memory as they were; None if any of them is missing."""
        first = self._open(owner, f"{name}-00000")
        if first is None:
            return None
        count, files = int(first[1]["rows"]), int(first[1]["files"])
        if any(not self._path(owner, f"{name}-{number:05d}").is_file() for number in range(files)):
            return None

        def parts() -> Iterator[torch.Tensor]:
            for number in range(files):
                opened = self._open(owner, f"{name}-{number:05d}")
                if opened is None:
                    raise OSError(f"{self._path(owner, name)} was deleted while it was read")
                order = torch.channels_last if opened[1]["last"] else torch.contiguous_format
                yield opened[0]["rows"].to(device, memory_format=order)

        return collect(parts(), count)

    def keep_inverter(
        self, fit_id: str, stages: Sequence[str], tensors: Tensors, notes: Mapping[str, Any], cost: Mapping[str, Any]
    ) -> None:
        """Keep the ``tensors`` of a fit's inverter for ``stages``, with the fit's ``notes`` and ``cost``, as JSON."""
        if self._room_for(sum(tensor.nbytes for tensor in tensors.values())):
            digest = hashlib.sha256(json.dumps(list(stages)).encode()).hexdigest()[:12]
            header = {"stages": json.dumps(list(stages)), "notes": json.dumps(notes), "cost": json.dumps(cost)}
            self._write(fit_id, f"inverter-{digest}", tensors, header)

    def inverter(self, fit_id: str, stages: Sequence[str], device: torch.device) -> KeptInverter | None:
        """Return a kept inverter that covers ``stages``, its tensors on ``device``; None if there is none."""
        for path in sorted((self.folder / fit_id).glob("inverter-*.safetensors")):
            opened = self._open(fit_id, path.stem)
            if opened is None or "cost" not in opened[1]:
                continue
            covered, notes, cost = (json.loads(opened[1][key]) for key in ("stages", "notes", "cost"))
            if set(stages) <= set(covered):
                tensors = {name: tensor.to(device) for name, tensor in opened[0].items()}
                return KeptInverter(covered, tensors, notes, cost)
        return None

    def inverter_files(self, fit_id: str) -> list[InverterFile]:
        """Return the kept inverters of a fit, those of most stages first, without their tensors."""
        files = []
        for path in sorted((self.folder / fit_id).glob("inverter-*.safetensors")):
            try:
                with safe_open(str(path), "pt") as file:
                    header = file.metadata() or {}
            except (OSError, SafetensorError):
                continue
            if "cost" in header:
                stages, notes, cost = (json.loads(header[key]) for key in ("stages", "notes", "cost"))
                files.append(InverterFile(path, stages, notes, cost))
        return sorted(files, key=lambda file: -len(file.stages))

    def has_room(self, size: int) -> bool:
        """Tell whether ``size`` more bytes may be kept."""
        return self._size() + size <= self.limit

    def prune(self) -> int:
        """Delete everything and return the bytes that were freed."""
        freed = self._size()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._bytes, self._full = None, False
        return freed

    def _path(self, owner: str, name: str) -> Path:
        return self.folder / owner / f"{name}.safetensors"

    def _write(self, owner: str, name: str, tensors: Tensors, header: dict[str, str]) -> None:
        # one contiguous clone per tensor: the format refuses tensors that share memory
        plain = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}
        data = save(plain, header)
        try:
            write_atomically(self._path(owner, name), data)
        except DiskError as error:  # a record that finds no room ends the run; this is only a saving of time
            self._full = True
            self._note(f"nothing more is kept for measures that are added later: {error}")
        self._bytes = (self._bytes or 0) + len(data)

    def _open(self, owner: str, name: str) -> tuple[dict[str, torch.Tensor], dict[str, str]] | None:
        """Return the tensors and the header of a file; None for one that is missing or damaged."""
        try:
            with safe_open(str(self._path(owner, name)), "pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                return tensors, file.metadata() or {}
        except (OSError, SafetensorError):
            return None

    def _room_for(self, size: int) -> bool:
        """Tell whether ``size`` more bytes may be kept, and say so once if not."""
        if self._bytes is None:
            self._bytes = self._size()
        if not self._full and self._bytes + size <= self.limit:
            return True
        if not self._full and self.limit:
            self._note(
                f"kept reconstructions in '{self.folder}' reach their limit of {self.limit / 2**30:.3g} GiB: no more "
                "are kept, so a measure that is added later inverts those cells again; raise it with --keep, or make "
                "room with: invsuite prune"
            )
        self._full = True
        return False

    def _size(self) -> int:
        return sum(path.stat().st_size for path in self.folder.rglob("*.safetensors"))


def content_name(prefix: str, tensor: torch.Tensor) -> str:
    """Return a name that tells the content of ``tensor`` from any other's: ``prefix`` and 16 digits of its SHA-256."""
    digest = hashlib.sha256(repr((tuple(tensor.shape), tensor.dtype)).encode())
    digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return f"{prefix}-{digest.hexdigest()[:16]}"
