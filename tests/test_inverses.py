"""Inverses that are kept: the same to the last bit in another process, and refused where anything is not as it was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import scene_split

from invsuite._system.seal import sealed
from invsuite.apply.card import CARD, read_card
from invsuite.apply.inverse import IMAGES, TENSORS, Inverse, load_inverse
from invsuite.data.scenes import ScenesSource
from invsuite.data.split import Split
from invsuite.errors import MissingPath, NotApplicable, UsageError, WeightsError
from invsuite.methods import make_method
from invsuite.methods.base import Method
from invsuite.methods.networks import Layerwise, Modular
from invsuite.methods.optimisation.presets import Optimisation
from invsuite.methods.problem import Budget
from invsuite.methods.refined import Refined
from invsuite.methods.ridge import Ridge
from invsuite.models.base import Model
from invsuite.registry import forget_plugins, load_plugins
from invsuite.single import fit, score

STAGES = ("embed", "block03")
FIT, SCORE = scene_split(71, 24), ScenesSource(72, 4)
IMAGES_OF_ALL = FIT.images([0, 1])
TRAINED = Budget(image_passes=32, batch=16)
NETWORK = {"width": 8, "depth": 1}
KEPT: dict[str, Method | str] = {
    "ridge": "ridge",
    "mean": "mean",
    "exact": "exact",
    "fixedpoint": "fixedpoint",
    "modular": Modular(**NETWORK),
    "layerwise": Layerwise(**NETWORK),
    "optimisation": Optimisation(iterations=2, search_iterations=2),
    "refined": Refined("ridge", iterations=2, search_iterations=2),
}
AGAIN = """
import sys, torch, invsuite
images = torch.load(sys.argv[1], weights_only=True)
for folder in sys.argv[2:]:
    inverse = invsuite.load_inverse(folder)
    answers = {stage: inverse(images, stage).contiguous() for stage in inverse.stages}
    torch.save(answers, folder + ".again.pt")
"""


@pytest.fixture(scope="module")
def kept(vit: Model, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Inverse]]:
    """Return a folder with an inverse of every method that is kept, and those inverses."""
    folder = tmp_path_factory.mktemp("inverses")
    inverses = {name: fit(method, vit, STAGES, FIT, budget=TRAINED) for name, method in KEPT.items()}
    for name, inverse in inverses.items():
        inverse.save(folder / name)
    return folder, inverses


def test_another_process_gives_the_same_to_the_last_bit(kept: tuple[Path, dict[str, Inverse]]) -> None:
    folder, inverses = kept
    torch.save(IMAGES_OF_ALL, folder / "images.pt")
    words = [sys.executable, "-c", AGAIN, folder / "images.pt", *(folder / name for name in inverses)]
    ended = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    for name, inverse in inverses.items():
        again = torch.load(folder / f"{name}.again.pt", weights_only=True)
        assert again.keys() == set(inverse.stages)
        for stage, images in again.items():
            assert torch.equal(images, inverse(IMAGES_OF_ALL, stage)), (name, stage)


def test_a_card_says_what_the_inverse_is_and_how_good(
    vit: Model, kept: tuple[Path, dict[str, Inverse]], tmp_path: Path
) -> None:
    inverses = kept[1]
    results = score(inverses["exact"], SCORE, ["psnr"])
    path = inverses["exact"].with_quality(results).save(tmp_path / "scored", licence="CC-BY-4.0")
    card = read_card(path)
    assert (card.method.kind, card.model.source, card.seed) == ("exact", "bundled:vit", 0)
    assert card.model.fingerprint == vit.fingerprint()
    assert card.model.weights == vit.origin
    assert card.stages == ("embed",)
    assert "affine" in card.refused["block03"]
    assert card.layouts == {stage: vit.layout(stage) for stage in STAGES}
    assert card.data["fit"].count + card.data["select"].count == len(FIT)
    assert card.quality["embed"]["psnr"].mean == results[0].measurements["psnr"].mean
    assert (card.quality["embed"]["psnr"].n, card.scored_on.count if card.scored_on else 0) == (4, 4)
    assert card.licence == "CC-BY-4.0"
    assert card.budget == TRAINED
    assert card == load_inverse(path, vit).card


def test_an_inverse_that_was_loaded_is_scored_like_the_one_that_was_fitted(
    vit: Model, kept: tuple[Path, dict[str, Inverse]]
) -> None:
    folder, inverses = kept
    again = load_inverse(folder / "modular", vit)
    for fitted, loaded in zip(score(inverses["modular"], SCORE, ["psnr"]), score(again, SCORE, ["psnr"]), strict=True):
        assert fitted.cell == loaded.cell
        assert fitted.measurements["psnr"].values == loaded.measurements["psnr"].values
    with pytest.raises(UsageError, match="21 of the images to score are in the fit images"):
        score(again, FIT)


@pytest.mark.parametrize("name", [CARD, TENSORS, IMAGES])
def test_one_changed_byte_is_refused(
    vit: Model, kept: tuple[Path, dict[str, Inverse]], tmp_path: Path, name: str
) -> None:
    path = kept[1]["ridge"].save(tmp_path / "r")
    data = (path / name).read_bytes()
    for place in (len(data) // 3, len(data) // 2, len(data) - 2):
        changed = bytearray(data)
        changed[place] ^= 1
        (path / name).write_bytes(changed)
        with pytest.raises(WeightsError, match=f"{name}.*(damaged|changed|cannot be read)"):
            load_inverse(path, vit)
    (path / name).unlink()
    with pytest.raises((WeightsError, MissingPath), match=name):
        load_inverse(path, vit)


def test_other_weights_are_refused_and_forced_in_plain_words(vit: Model, kept: tuple[Path, dict[str, Inverse]]) -> None:
    folder, inverses = kept
    other = vit.randomised(3)
    known, new = (model.fingerprint()[:16] for model in (vit, other))
    with pytest.raises(WeightsError, match=f"{known}.*{new}.*another model"):
        load_inverse(folder / "ridge", other)
    with pytest.warns(UserWarning, match="the numbers on its card do not hold for this model"):
        forced = load_inverse(folder / "ridge", other, force=True)
    assert forced.remarks
    assert forced(IMAGES_OF_ALL, "embed").shape == IMAGES_OF_ALL.shape
    assert not torch.equal(forced(IMAGES_OF_ALL, "block03"), inverses["ridge"](IMAGES_OF_ALL, "block03"))
    with pytest.raises(UsageError, match="what is measured here does not belong on it"):
        forced.with_quality(score(forced, SCORE, ["psnr"]))


def test_another_version_of_the_method_is_said(
    vit: Model, kept: tuple[Path, dict[str, Inverse]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ridge, "version", 99)
    with pytest.warns(UserWarning, match="this invsuite has 99: its numbers may have changed since"):
        assert load_inverse(kept[0] / "ridge", vit).remarks


def test_a_model_of_another_size_or_other_stages_is_refused(
    detr: Model, linear_chain: Model, kept: tuple[Path, dict[str, Inverse]]
) -> None:
    folder, _ = kept
    with pytest.raises(UsageError, match="is for images of 96 x 96"):
        load_inverse(folder / "ridge", linear_chain, force=True)
    with pytest.raises(UsageError, match="unknown stage of model 'detr' 'embed'"):
        load_inverse(folder / "ridge", detr, force=True)


def test_a_model_that_python_made_is_given_by_hand(linear_chain: Model, tmp_path: Path) -> None:
    small = Split(scene_split(73, 24, 24).dataset, tuple(range(24)))
    inverse = fit("ridge", linear_chain, ["first"], small)
    path = inverse.save(tmp_path / "linear")
    with pytest.raises(UsageError, match="give it as model="):
        load_inverse(path)
    images = small.images([0])
    assert torch.equal(load_inverse(path, linear_chain)(images), inverse(images))


def test_what_cannot_be_kept_is_refused_in_one_line(vit: Model, tmp_path: Path) -> None:
    for method, reason in (
        ("mean-colour", "shown the image itself"),
        ("nearest", "cannot be kept: it answers with its fit images"),
    ):
        with pytest.raises(UsageError, match=reason):
            fit(method, vit, ["embed"], FIT).save(tmp_path / method)
        assert not (tmp_path / method).exists()
    with pytest.raises(UsageError, match="refused every stage"):
        fit("exact", vit, ["block03"], FIT).save(tmp_path / "exact")


def test_a_folder_of_something_else_is_left_alone(kept: tuple[Path, dict[str, Inverse]], tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds other files \(thesis.txt\)"):
        kept[1]["ridge"].save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(UsageError, match="is a file"):
        kept[1]["ridge"].save(tmp_path / "thesis.txt")
    with pytest.raises(MissingPath, match="does not exist"):
        load_inverse(tmp_path / "nothing")
    with pytest.raises(MissingPath, match=f"holds no {CARD}"):
        load_inverse(tmp_path)


def test_an_inverse_is_replaced_whole(vit: Model, kept: tuple[Path, dict[str, Inverse]], tmp_path: Path) -> None:
    for name in ("ridge", "mean"):
        path = kept[1][name].save(tmp_path / "again")
    assert load_inverse(path, vit).card.method.kind == "mean"


PLUGIN = """
import torch
from dataclasses import dataclass
from invsuite import FitCost, Fitted, Inverter, Method, register

@dataclass(frozen=True)
class Level(Inverter):
    level: float

    def invert(self, representation):
        return torch.full((len(representation), 3, 96, 96), self.level)

    def tensors(self):
        return {}

@register.method
@dataclass(frozen=True)
class AtLevel(Method):
    level: float = 0.5
    name = "at-level"
    family = "floor"
    source = "a test"

    def fit(self, problem):
        return Fitted(Level(self.level), FitCost())

    def restore(self, problem, tensors, notes):
        if self.level > 0.7:
            raise ValueError("too bright")
        return Level(self.level)
"""


def test_a_method_without_tensors_is_a_card_alone(vit: Model, tmp_path: Path) -> None:
    (tmp_path / "level.py").write_text(PLUGIN)
    load_plugins([tmp_path / "level.py"])
    path = fit(make_method("at-level", {"level": 0.25}), vit, ["embed"], FIT).save(tmp_path / "level")
    assert {file.name for file in path.iterdir()} == {CARD, IMAGES}
    assert float(load_inverse(path, vit)(IMAGES_OF_ALL).mean()) == 0.25
    broken = fit(make_method("at-level", {"level": 0.75}), vit, ["embed"], FIT).save(tmp_path / "bright")
    with pytest.raises(WeightsError, match="does not fit its method 'at-level': ValueError: too bright"):
        load_inverse(broken, vit)
    forget_plugins()
    with pytest.raises(UsageError, match="unknown method 'at-level'"):
        load_inverse(path, vit)


def test_stages_are_named_as_a_person_does(kept: tuple[Path, dict[str, Inverse]]) -> None:
    inverse, exact = kept[1]["ridge"], kept[1]["exact"]
    assert inverse.stage_of("3") == "block03"
    assert exact.stage_of() == "embed"
    with pytest.raises(UsageError, match="inverts embed, block03: name one stage"):
        inverse(IMAGES_OF_ALL)
    with pytest.raises(UsageError, match="unknown stage of the inverse 'vit-ridge-s0' 'blok03'"):
        inverse(IMAGES_OF_ALL, "blok03")
    with pytest.raises(NotApplicable):
        exact(IMAGES_OF_ALL, "block03")


def test_a_card_of_another_format_is_refused(kept: tuple[Path, dict[str, Inverse]], tmp_path: Path) -> None:
    path = kept[1]["mean"].save(tmp_path / "mean")
    tree = json.loads((path / CARD).read_text())
    assert next(iter(tree)) == "card_sha256"
    (path / CARD).write_text(json.dumps(tree | {"seed": 5}))
    with pytest.raises(WeightsError, match="changed after it was written"):
        read_card(path)
    (path / CARD).write_text(
        sealed("card_sha256", {k: v for k, v in tree.items() if k != "card_sha256"} | {"format": 9})
    )
    with pytest.raises(UsageError, match="has format 9, this invsuite reads 1"):
        read_card(path)
    (path / CARD).write_text("[1, 2]")
    with pytest.raises(WeightsError, match="no card"):
        read_card(path)
