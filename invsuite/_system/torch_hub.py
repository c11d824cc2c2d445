"""Checkpoints that torchvision publishes, in torch's hub cache (``TORCH_HOME``), by the digest in their names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from invsuite._system.files import file_digest
from invsuite._system.needs import Log, Need
from invsuite.errors import Unavailable


def in_cache(name: str) -> Path:
    """Return where a file of this name lies in the cache."""
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def download(address: str, path: Path) -> None:
    """Fetch a file, which is there whole or not at all, into a folder that is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.hub.download_url_to_file(address, str(path), progress=False)


@dataclass(frozen=True)
class TorchFile:
    """A published checkpoint.

    Attributes:
        address: of the file, whose name ends in the first 8 digits of its SHA-256.
        size: in bytes, about.
    """

    address: str
    size: int

    @property
    def path(self) -> Path:
        """Return where it lies in the cache."""
        return in_cache(self.address.rsplit("/", 1)[1])

    @property
    def command(self) -> str:
        """Return the command that fetches it."""
        return f"curl -fL --create-dirs {self.address} -o {self.path}"

    def find(self) -> Path:
        """Return its path in the cache, its digest checked.

        Raises:
            Unavailable: if it is not cached, or its SHA-256 is not the published one.
        """
        path = self.path
        if not path.is_file():
            raise Unavailable(f"checkpoint {path.name} is not in the cache; fetch it: {self.command}")
        published, digest = path.stem.rsplit("-", 1)[1], file_digest(path)
        if not digest.startswith(published):
            raise Unavailable(f"checkpoint {path}: SHA-256 starts with {digest[:8]}, not {published}; delete and fetch")
        return path

    def need(self) -> Need:
        """Return the need for it."""
        path = self.path
        if path.is_file():
            return Need(f"checkpoint {path.name}", 0, None, str(path))

        def bring(log: Log) -> str:
            download(self.address, path)
            return f"sha256:{file_digest(self.find())}"

        return Need(f"checkpoint {path.name}", self.size, bring, self.address)
