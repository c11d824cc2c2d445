"""Weights in repositories of the Hugging Face hub."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache

from invsuite._system.environment import is_offline
from invsuite._system.files import file_digest
from invsuite._system.needs import Log, Need
from invsuite.errors import Unavailable

#: the weights and the configuration of a repository; the rest (other frameworks' weights, pictures) stays there
FILES = ("model.safetensors", "model-*.safetensors", "*.json")
PICKLED = "pytorch_model.bin"  # what older repositories have instead; it is read without running its code


def is_local(source: str) -> bool:
    """Tell whether ``source`` means a local path, which need not exist, and not a hub repository ``USER/NAME``."""
    _, slash, name = source.partition("/")
    looks = source.startswith(("~", "$", ".", "/")) or not slash or not name or bool(re.search(r"[/\\\s]", name))
    return looks or Path(source).exists()


def weights_need(repository: str) -> Need:
    """Return the need for the weights of a hub ``repository``; the hub is asked for their size, unless offline."""
    what = f"weights {repository}"
    repository, _, revision = repository.partition("@")
    for name in ("model.safetensors", PICKLED):
        cached = try_to_load_from_cache(repository, name, revision=revision or None)
        if isinstance(cached, str):
            return Need(what, 0, None, cached)

    def bring(log: Log) -> str:
        folder = Path(snapshot_download(repository, revision=revision or None, allow_patterns=list(FILES)))
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            folder = Path(snapshot_download(repository, revision=revision or None, allow_patterns=[PICKLED]))
            files = sorted(folder.glob(PICKLED))
        if not files:
            raise Unavailable(f"hub repository '{repository}' holds neither safetensors nor {PICKLED}")
        return " ".join(f"sha256:{file_digest(file)}" for file in files)

    return Need(what, None if is_offline() else _size(repository), bring, f"hf download {repository}")


def _size(repository: str) -> int | None:
    """Return the bytes of the `FILES` of a hub repository; None where the hub does not answer."""
    try:
        files = HfApi().model_info(repository, files_metadata=True).siblings or []
    except Exception:  # no network, no such repository: the size is not known, fetching will say why
        return None
    return sum(f.size or 0 for f in files if any(fnmatchcase(f.rfilename, pattern) for pattern in FILES))
