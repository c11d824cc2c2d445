"""Where inverses lie beside local folders: in the package, and on the Hugging Face hub."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, snapshot_download

from invsuite._system.environment import is_offline
from invsuite._system.files import expand_path
from invsuite.apply.card import CARD, UNSTATED, Card, read_card
from invsuite.errors import MissingPath, Unavailable, UsageError, reason_of, unknown_name

HUB = "hf://"
BUNDLED = "bundled:"
ROOT = Path(str(files("invsuite") / "apply" / "bundled"))
REPOSITORY = re.compile(r"hf://(?P<name>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[\w./-]+))?")


def is_local(place: str | Path) -> bool:
    """Tell whether an inverse lies in a folder of the user's own."""
    return not str(place).startswith((HUB, BUNDLED))


def find_inverse(place: str | Path, names: tuple[str, ...]) -> Path:
    """Return the folder of an inverse.

    Args:
        place: a folder, ``hf://USER/NAME`` (``@REVISION`` may follow), or ``bundled:MODEL/METHOD``.
        names: of its files.

    Raises:
        MissingPath: for a folder that is not there.
        Unavailable: if the hub does not give it.
        UsageError: for an address of another form, or an inverse that is not bundled.
    """
    text = str(place)
    if text.startswith(HUB):
        repository, revision = _address(text)
        try:
            return Path(snapshot_download(repository, revision=revision, allow_patterns=list(names)))
        except Exception as error:  # no network, no such repository, nothing in the cache
            raise Unavailable(f"inverse '{text}' cannot be had from the hub ({reason_of(error)})") from error
    if text.startswith(BUNDLED):
        known = bundled_inverses()
        if text not in known:
            raise unknown_name("bundled inverse", text, known)
        return known[text]
    folder = expand_path(text)
    if not folder.is_dir():
        raise MissingPath(f"inverse '{folder}' does not exist")
    return folder


def bundled_inverses(model: str = "") -> dict[str, Path]:
    """Return the folders of the inverses in the package by ``bundled:MODEL/METHOD``, of all models or of one.

    Args:
        model: source of a bundled model (``bundled:vit``); "" for all.
    """
    return {
        f"{BUNDLED}{card.parent.parent.name}/{card.parent.name}": card.parent
        for card in sorted(ROOT.glob(f"*/*/{CARD}"))
        if model in ("", f"{BUNDLED}{card.parent.parent.name}")
    }


def bundled_place(model: str, method: str) -> str:
    """Return the address of the inverse of a bundled model (``vit`` or ``bundled:vit``) by a method.

    Raises:
        UsageError: if there is none, with those that there are.
    """
    place = f"{BUNDLED}{model.removeprefix(BUNDLED)}/{method}"
    known = bundled_inverses()
    if place not in known:
        raise UsageError(
            f"no inverse of model '{model}' by '{method}' comes along: fit one with invsuite fit, and name its folder; "
            f"along come: {', '.join(name.removeprefix(BUNDLED) for name in known) or 'none'}"
        )
    return place


def bundled_folder(model: str, row: str) -> Path:
    """Return where the inverse of a row of tables for the ``model`` of this source lies in the package."""
    return ROOT / model.removeprefix(BUNDLED) / row


def upload(folder: Path, address: str, names: tuple[str, ...], private: bool = False) -> str:
    """Upload an inverse to a repository of the hub in one commit, made where it is not there, and return its page.

    Args:
        folder: of the inverse.
        address: ``hf://USER/NAME``.
        names: of the files that belong to an inverse.
        private: whether a new repository is private.

    Raises:
        Unavailable: if the hub refuses or is not reached.
        UsageError: for an address of another form.
    """
    repository, revision = _address(address)
    if revision is not None:
        raise UsageError(f"'{address}' names a revision: push to {HUB}USER/NAME")
    if is_offline():
        raise Unavailable(f"nothing is pushed to '{address}' while offline: leave --offline and HF_HUB_OFFLINE out")
    card = read_card(folder)
    contents: dict[str, bytes | str] = {name: str(folder / name) for name in names if (folder / name).is_file()}
    contents["README.md"] = page(card, address).encode()
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in contents.items()]
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        api.create_commit(repository, operations, commit_message=f"{card.method.row} of {card.model.name}, invsuite")
    except Exception as error:  # no network, no token, no such user
        raise Unavailable(
            f"'{address}' refuses the inverse ({reason_of(error)}); log in with: hf auth login"
        ) from error
    return f"https://huggingface.co/{repository}"


def page(card: Card, address: str) -> str:
    """Return the page of an inverse on the hub, from its card."""
    licence = [] if card.licence == UNSTATED else [f"license: {card.licence.lower()}"]
    measures = sorted({name for values in card.quality.values() for name in values})
    lines = [
        "---",
        *licence,
        "library_name: invsuite",
        "tags: [feature-inversion, image-reconstruction]",
        "---",
        f"# {card.method.row} for {card.model.name}",
        "",
        f"Reconstructs images from what `{card.model.source or card.model.name}` holds of them at "
        f"{', '.join(card.stages)}: {card.method.source}.",
        "",
        "```python",
        "import invsuite",
        "",
        f'inverse = invsuite.load_inverse("{address}")',
        f'images = inverse("cat.jpg", stage="{card.stages[-1]}")',
        "```",
        "",
        f"Weights of the model: {card.model.weights.source} (licence {card.model.weights.licence}, fingerprint "
        f"`{card.model.fingerprint[:16]}`). Fitted on {card.data['fit'].count} images of {card.data['fit'].name}. "
        f"`card.json` has all the rest.",
    ]
    if measures:
        on = f" on {card.scored_on.count} images of {card.scored_on.name}" if card.scored_on else ""
        lines += ["", f"Measured{on} (mean, n):", "", "| stage | " + " | ".join(measures) + " |"]
        lines.append("| --- |" + " --- |" * len(measures))
        for stage, values in card.quality.items():
            cells = [f"{v.mean:.4g} ({v.n})" if (v := values.get(name)) else "" for name in measures]
            lines.append(f"| {stage} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _address(text: str) -> tuple[str, str | None]:
    match = REPOSITORY.fullmatch(text)
    if match is None:
        raise UsageError(f"'{text}' is no address of an inverse on the hub: expected {HUB}USER/NAME")
    return match["name"], match["revision"]
