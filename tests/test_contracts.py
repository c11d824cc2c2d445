"""Every built-in unit and every template keeps the contracts of its kind, and a unit that breaks one is told how."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import invoke

from invsuite.data.scenes import Scenes, ScenesSource
from invsuite.errors import UsageError
from invsuite.methods.base import FitCost, Fitted, Inverter, Method
from invsuite.methods.problem import Problem
from invsuite.metrics.base import Metric, Scoring, Values
from invsuite.models.base import Model, Representation
from invsuite.registry import METHODS, METRICS
from invsuite.selftest import contracts
from invsuite.selftest.contracts import (
    METHOD_CONTRACTS,
    METRIC_CONTRACTS,
    MODEL_CONTRACTS,
    SOURCE_CONTRACTS,
    MethodTrial,
    MetricTrial,
    check_unit,
    try_contracts,
)

TEMPLATES = Path(__file__).parent.parent / "docs" / "plugins"


def settings(name: str) -> dict[str, Any]:
    """Parameters that make a method small."""
    cls = METHODS[name]
    fields = set(getattr(cls, "__dataclass_fields__", {}))
    small = {"width": 8, "depth": 1, "iterations": 2, "restarts": 1}
    return {key: value for key, value in small.items() if key in fields}


def problems(verdicts: Any) -> dict[str, str]:
    return {verdict.claim: verdict.problem for verdict in verdicts if verdict.problem}


@pytest.fixture
def loaded(vit: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bundled ViT for the trials of all units, which leave it as it is: a contract of methods."""
    monkeypatch.setattr(contracts, "load_model", lambda source: vit)


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_keeps_its_contracts(name: str) -> None:
    assert problems(check_unit(name, settings(name))) == {}


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize("name", sorted(METRICS))
def test_every_measure_keeps_its_contracts(name: str) -> None:
    assert problems(check_unit(name)) == {}


@pytest.mark.parametrize("source", ["bundled:vit", "bundled:detr"])
def test_bundled_models_keep_their_contracts(source: str) -> None:
    assert problems(check_unit(source)) == {}


def test_scenes_keep_their_contracts() -> None:
    assert problems(check_unit("scenes", {"seed": 1, "count": 4})) == {}


def test_the_command_holds_the_templates_against_their_contracts() -> None:
    plugins = [word for path in sorted(TEMPLATES.glob("*.py")) for word in ("--plugin", path)]
    for words in (
        ["grey-world"],
        ["worst_error"],
        ["noise", "--set", "seed=1", "--set", "count=3"],
        ["mylab:tiny"],
    ):
        result = invoke("selftest", *words, *plugins)
        assert result.exit_code == 0, result.output
        assert "contracts kept" in result.stdout
    assert invoke("selftest", "noise", *plugins).exit_code == 2, "a key is missing"
    wrong = invoke("selftest", "gray-world", *plugins)
    assert wrong.exit_code == 2
    assert "did you mean grey-world" in wrong.stderr


def test_an_unknown_name_lists_what_exists() -> None:
    with pytest.raises(UsageError, match="did you mean ridge"):
        check_unit("rigde")


@dataclass(frozen=True)
class Wild(Inverter):
    """Gives values outside [0, 1] that depend on the batch, and no tensors that make it again."""

    model: Model

    def invert(self, representation: Representation) -> torch.Tensor:
        return torch.rand(len(representation), 3, 96, 96) * 2

    def tensors(self) -> dict[str, torch.Tensor]:
        return {}


@dataclass(frozen=True)
class Careless(Method):
    name = "careless"
    family = "hybrid"
    source = "nowhere"
    uses_budget = True

    def fit(self, problem: Problem) -> Fitted:
        problem.model.network.get_parameter("pos_embed").data += 1
        return Fitted(Wild(problem.model), FitCost())


def test_a_careless_method_is_told_what_it_breaks() -> None:
    broken = problems(try_contracts("method", "careless", METHOD_CONTRACTS, MethodTrial(Careless())))
    assert "expected [0, 1]" in broken[METHOD_CONTRACTS[2].claim]
    claims = [contract.claim for contract in METHOD_CONTRACTS]
    assert broken[claims[0]] == "it has no docstring: say what it does"
    assert broken[claims[1]] == "it changed the model's weights"
    assert "differ by" in broken[claims[3]]
    assert "differs by" in broken[claims[4]]
    assert broken[claims[5]] == "it names no image passes at 'embed'"
    assert "'restore' makes nothing of them" in broken[claims[6]]


class Constant(Metric):
    """A measure that says the same of everything."""

    name = "constant"
    label = "Constant"
    direction = "higher"

    def compute(self, scoring: Scoring) -> Values:
        return Values([1.0 * scoring.subject.edit_limit] * (len(scoring.images) - 1))


def test_a_constant_measure_is_told_what_it_breaks() -> None:
    broken = problems(try_contracts("measure", "constant", METRIC_CONTRACTS, MetricTrial(Constant())))
    assert broken == {
        METRIC_CONTRACTS[1].claim: "5 values for 6 images of a copy",
        METRIC_CONTRACTS[2].claim: "all images score the same, whether reconstructed as a copy or in grey",
        METRIC_CONTRACTS[3].claim: "it depends on how many images are edited: set uses_edits = True",
    }


def test_a_model_in_train_mode_and_repeated_images_are_told() -> None:
    from invsuite.models.load import load_model

    model = load_model("bundled:vit")
    model.network.train()
    assert MODEL_CONTRACTS[1].claim in problems(try_contracts("model", "vit", MODEL_CONTRACTS, model))

    class Alike(Scenes):
        def identity(self, index: int) -> str:
            return "the same"

    class Twice(ScenesSource):
        def open(self, size: tuple[int, int], resampling: Any) -> Scenes:
            return Alike(self.seed, self.count, size[0])

    broken = problems(try_contracts("kind of data", "twice", SOURCE_CONTRACTS, Twice(1, 3)))
    assert broken == {SOURCE_CONTRACTS[2].claim: "3 images have 1 identities"}
