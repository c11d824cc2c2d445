"""The commands that fit an inverse and push it, and the hub as the place that one is read from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import invoke, scene_split
from huggingface_hub import CommitOperationAdd, HfApi, snapshot_download
from PIL import Image

from invsuite.apply import places
from invsuite.apply.card import CARD, read_card
from invsuite.apply.inverse import FILES, TENSORS, load_inverse
from invsuite.errors import Unavailable, UsageError

IMAGES = scene_split(76, 2).images([0, 1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an inverse that the command fitted."""
    out = tmp_path_factory.mktemp("commands") / "mine"
    words = ["--model", "bundled:vit", "--method", "ridge", "--set", "neighbourhood=3", "--stages", "embed,3"]
    result = invoke("fit", *words, "--scenes", 32, "--score", 4, "--licence", "CC0-1.0", "--out", out)
    assert result.exit_code == 0, result.output
    assert f"{out}" in result.stdout
    assert "on 4 images that were held back" in result.stdout
    return out


def test_fit_keeps_an_inverse_with_its_quality(folder: Path) -> None:
    card = read_card(folder)
    assert (card.stages, card.method.kind, card.licence) == (("embed", "block03"), "ridge", "CC0-1.0")
    assert card.method.parameters["neighbourhood"] == 3
    assert {stage: {name: v.n for name, v in values.items()} for stage, values in card.quality.items()} == {
        stage: {"psnr": 4, "ssim": 4} for stage in card.stages
    }
    assert {name: facts.count for name, facts in card.data.items()} == {"fit": 25, "select": 3}


def test_fit_takes_photos_and_says_what_became_of_them(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, image in enumerate(scene_split(77, 9).images(range(9))):
        pixels = (image.permute(1, 2, 0) * 255).byte().numpy()
        Image.fromarray(pixels).resize((150 + number, 120)).save(photos / f"{number}.png")
    (photos / "broken.png").write_bytes(b"no photo")
    out = tmp_path / "inverse"
    words = ["--model", "bundled:detr", "--method", "mean", "--stages", "backbone", "--photos", photos, "--score", 0]
    result = invoke("fit", *words, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    assert "unreadable photo left out" in result.stderr
    assert json.loads(result.stdout)["card"]["data"]["fit"]["count"] == 8
    card = read_card(out)
    assert (card.photo_mode, card.quality) == ("squash", {})


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "name what to fit on: a folder with --photos, or a number of --scenes"),
        (["--scenes", 8, "--method", "nearest"], "'nearest' cannot be kept: it answers with its fit images"),
        (["--scenes", 8, "--method", "mean-colour"], "shown the image itself"),
        (["--scenes", 8, "--method", "rigde"], "unknown method 'rigde': did you mean ridge"),
        (["--scenes", 8, "--method", "ridge", "--set", "choose=cgv"], "unknown ridge.choose 'cgv': did you mean gcv"),
        (["--scenes", 8, "--method", "ridge", "--stages", "blok"], "unknown stage of model 'vit' 'blok'"),
        (["--photos", "/no/such/folder", "--method", "ridge"], "photo folder '/no/such/folder' does not exist"),
    ],
)
def test_fit_says_in_one_line_what_does_not_fit(words: list[object], says: str, tmp_path: Path) -> None:
    result = invoke("fit", "--model", "bundled:vit", "--out", tmp_path / "out", *words)
    assert result.exit_code in (2, 3)
    assert says in result.stderr
    assert not (tmp_path / "out").exists()


def as_real(function: Callable[..., object], *words: object, **options: object) -> None:
    """Fail if the client's own function does not take these arguments."""
    signature(function).bind(*words, **options)


class Hub:
    """A hub that keeps what is committed to it in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: list[tuple[str, bool]] = []

    def __call__(self) -> Hub:
        return self

    def create_repo(self, repository: str, *, private: bool, exist_ok: bool) -> None:
        as_real(HfApi.create_repo, self, repository, private=private, exist_ok=exist_ok)
        assert exist_ok
        self.made.append((repository, private))

    def create_commit(self, repository: str, operations: list[CommitOperationAdd], *, commit_message: str) -> None:
        as_real(HfApi.create_commit, self, repository, operations, commit_message=commit_message)
        assert "ridge of vit" in commit_message
        for operation in operations:
            path = self.folder / repository / operation.path_in_repo
            path.parent.mkdir(parents=True, exist_ok=True)
            content: Any = operation.path_or_fileobj
            path.write_bytes(content if isinstance(content, bytes) else Path(content).read_bytes())

    def snapshot_download(self, repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        as_real(snapshot_download, repository, revision=revision, allow_patterns=allow_patterns)
        if not (self.folder / repository).is_dir() or revision == "lost":
            raise FileNotFoundError(f"404 Client Error: {repository}")
        assert sorted(allow_patterns) == sorted(FILES)
        return str(self.folder / repository)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Return a hub in place of the real one, which is reached."""
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr(places, "HfApi", hub)
    monkeypatch.setattr(places, "snapshot_download", hub.snapshot_download)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return hub


def test_an_inverse_is_pushed_and_read_from_the_hub(folder: Path, hub: Hub) -> None:
    result = invoke("push", folder, "hf://me/vit-ridge", "--private")
    assert (result.exit_code, result.stdout) == (0, "https://huggingface.co/me/vit-ridge\n"), result.output
    assert hub.made == [("me/vit-ridge", True)]
    page = (hub.folder / "me/vit-ridge/README.md").read_text()
    assert page.startswith("---\nlicense: cc0-1.0\nlibrary_name: invsuite\n")
    assert 'load_inverse("hf://me/vit-ridge")' in page
    psnr = read_card(folder).quality["block03"]["psnr"]
    assert f"| block03 | {psnr.mean:.4g} (4) |" in page
    for address in ("hf://me/vit-ridge", "hf://me/vit-ridge@main"):
        again = load_inverse(address)
        assert torch.equal(again(IMAGES, "3"), load_inverse(folder)(IMAGES, "3"))
    with pytest.raises(Unavailable, match=r"inverse 'hf://me/other' cannot be had from the hub \(404 Client Error"):
        load_inverse("hf://me/other")


def test_a_licence_can_be_given_when_it_is_pushed(folder: Path, hub: Hub, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert invoke("push", copy, "hf://me/again", "--licence", "MIT").exit_code == 0
    assert read_card(copy).licence == read_card(hub.folder / "me/again").licence == "MIT"


def test_what_is_damaged_or_cannot_be_reached_is_not_pushed(
    folder: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for address in ("hf://nobody", "https://huggingface.co/me/x", "hf://me/x/y"):
        result = invoke("push", folder, address)
        assert (result.exit_code, "expected hf://USER/NAME" in result.stderr) == (2, True), address
    assert "names a revision" in invoke("push", folder, "hf://me/x@main").stderr
    copy = tmp_path / "damaged"
    shutil.copytree(folder, copy)
    (copy / TENSORS).write_bytes((copy / TENSORS).read_bytes()[:-1])
    result = invoke("push", copy, "hf://me/x")
    assert (result.exit_code, "it is damaged" in result.stderr) == (3, True)
    assert invoke("push", tmp_path / "nothing", "hf://me/x").exit_code == 3
    assert "is no folder of yours" in invoke("push", "hf://me/x", "hf://me/y").stderr

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("401 Client Error: unauthorised")

    monkeypatch.setattr(hub, "create_repo", refuse)
    result = invoke("push", folder, "hf://me/x")
    assert (result.exit_code, "401 Client Error" in result.stderr) == (3, True)
    assert "hf auth login" in result.stderr
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "while offline" in invoke("push", folder, "hf://me/x").stderr
    assert not hub.folder.exists()


def test_a_bundled_inverse_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match="unknown bundled inverse 'bundled:vit/no-such-row'"):
        load_inverse("bundled:vit/no-such-row")
    assert CARD in FILES
