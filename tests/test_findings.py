"""The page of findings says what its records say: every verdict on records with known numbers, no word beyond them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import invented
import numpy as np
import pytest
from helpers import BUNDLED_SUITE, invoke
from invented import measurement

from invsuite.errors import UsageError
from invsuite.report.paper_claims import (
    CLAIMS,
    Check,
    Number,
    Rule,
    Subject,
    claim_section,
    conclude,
    difference,
    family_of,
    findings_markdown,
    holm,
    images_to_tell,
    lines_of,
    number_of,
    overall,
    p_value,
    subjects,
)
from invsuite.report.results import Results
from invsuite.results.record import Record, RelationName, RelationRecord, Weights
from invsuite.results.store import Store

N = 24
SUITE = BUNDLED_SUITE.replace('"embed", "block03"', '"embed", "block06"').replace(
    '"backbone", "decoder"', '"backbone", "encoder", "decoder"'
)
STAGES = {"vit": ("embed", "block06"), "detr": ("backbone", "encoder", "decoder")}


def record(model: str, stage: str, method: str, seed: int = 0, **means: Any) -> Record:
    """A record whose measures have these means over 24 images, or these values."""
    rng = np.random.default_rng(0)  # the same difficulty of images in every cell: differences are paired
    hard = rng.normal(0, 1, N)
    hard -= hard.mean()
    own = np.random.default_rng(list(f"{model}/{stage}/{method}/{seed}".encode())).normal(0, 0.02, N)
    measurements = []
    for name, mean in means.items():
        values = mean if isinstance(mean, list) else (mean + 0.05 * abs(mean) * (hard + own - own.mean())).tolist()
        measurements.append(measurement(name, values, floor={"correspondence": 1.0, "leak": 0.95}.get(name)))
    return invented.record(model, stage, method, seed, measurements, N)


def matrix(vit: tuple[float, float], detr: tuple[float, float], measure: str = "psnr", **more: float) -> list[Record]:
    """First and last encoder stage of both models over a mean image that scores 15; more measures at every stage."""
    records = []
    for model, levels in (("vit", vit), ("detr", detr)):
        for position, (stage, level) in enumerate(zip(STAGES[model], (*levels, 15.0), strict=False)):
            own = [record(model, stage, "modular", **{measure: level}, **more)]
            own.append(record(model, stage, "mean", **{measure: 15.0}))
            for one in own:
                one.cell.position = position
            records += own
    return records


def both(records: list[Record]) -> tuple[Subject, Subject]:
    vit, detr = subjects(Results(records), "modular")
    return vit, detr


LEFT = next(check for check in CLAIMS[0].checks if (check.measure, check.quantity) == ("psnr", "left"))


def test_what_is_left_of_the_first_stage() -> None:
    vit, detr = both(matrix(vit=(35.0, 31.0), detr=(25.0, 17.0)))
    assert (vit.family, detr.family) == ("ViT", "DETR")
    assert detr.encoder == ["backbone", "encoder"], "the decoder is behind it"
    kept, lost = number_of(LEFT, vit), number_of(LEFT, detr)
    assert kept is not None
    assert lost is not None
    assert kept.value == pytest.approx(0.8, abs=0.01)
    assert lost.value == pytest.approx(0.2, abs=0.02)
    assert (kept.n, kept.where) == (N, "embed to block06")
    between = difference(LEFT, vit, detr)
    assert between is not None
    assert between.value == pytest.approx(0.6, abs=0.03)
    assert LEFT.vit is not None
    assert LEFT.detr is not None
    assert LEFT.difference is not None
    assert conclude(kept, LEFT.vit) == "holds"
    assert conclude(lost, LEFT.detr) == "holds"
    assert conclude(between, LEFT.difference) == "holds"


def test_the_claim_fails_when_the_numbers_are_the_other_way_round() -> None:
    vit, detr = both(matrix(vit=(35.0, 17.0), detr=(25.0, 24.0)))
    for subject in (vit, detr):
        found, rule = number_of(LEFT, subject), LEFT.rule(subject.family)
        assert found is not None
        assert rule is not None
        assert conclude(found, rule) == "fails"
    between = difference(LEFT, vit, detr)
    assert between is not None
    assert LEFT.difference is not None
    assert conclude(between, LEFT.difference) == "fails"


def test_near_the_bound_it_cannot_be_told() -> None:
    noisy = np.random.default_rng(1).normal(0.5, 0.3, N)
    vit, _ = both([*matrix((30.0, 25.0), (20.0, 18.0), hue_gain=(noisy - noisy.mean() + 0.52).tolist())])  # type: ignore[arg-type]
    check = next(c for claim in CLAIMS for c in claim.checks if c.measure == "hue_gain")
    found = number_of(check, vit)
    assert found is not None
    assert check.vit is not None
    assert found.value == pytest.approx(0.52)
    assert conclude(found, check.vit) == "cannot be told"


@pytest.mark.parametrize(
    ("low", "high", "rule", "verdict"),
    [
        (0.6, 0.8, Rule("above", 0.5), "holds"),
        (0.2, 0.4, Rule("above", 0.5), "fails"),
        (0.4, 0.6, Rule("above", 0.5), "cannot be told"),
        (0.5, 0.6, Rule("above", 0.5), "cannot be told"),
        (0.6, 0.8, Rule("below", 0.5), "fails"),
        (0.2, 0.4, Rule("below", 0.5), "holds"),
        (None, None, Rule("above", 0.5), "cannot be told"),
        (0.6, 0.8, Rule("above", None), None),
    ],
)
def test_rules(low: float | None, high: float | None, rule: Rule, verdict: str | None) -> None:
    assert conclude(Number(0.5, low, high, 9, 1, "a"), rule) == verdict
    assert conclude(Number(0.7, 0.6, 0.8, 7, 1, "a"), Rule("above", 0.5)) == "cannot be told", "of 7 images"
    assert conclude(Number(0.5, 1.2, 3.0, 9, 1, "a", floor=1.0), Rule("above", None)) == "holds"


def test_many_checks_are_corrected_together() -> None:
    """Of a hundred numbers that are nothing but chance, intervals alone tell some from 0; corrected, none is."""
    rng = np.random.default_rng(3)
    rule = Rule("above", 0.0)
    numbers = [Number(v, v - 1.96, v + 1.96, 30, 1, "a") for v in rng.normal(0, 1, 100).tolist()]
    correction = holm([p for one in numbers if (p := p_value(one, rule)) is not None])
    assert sum(conclude(one, rule) != "cannot be told" for one in numbers) >= 2
    assert all(conclude(one, rule, correction) == "cannot be told" for one in numbers)
    real = Number(6.0, 4.04, 7.96, 30, 1, "a")
    correction = holm([p for one in [*numbers, real] if (p := p_value(one, rule)) is not None])
    assert conclude(real, rule, correction) == "holds"


def test_how_many_images_would_tell() -> None:
    """Half the distance takes four times the images; corrected for ten checks it takes more."""
    rule, near = Rule("above", 0.5), Number(0.6, 0.4, 0.8, 50, 1, "a")
    assert images_to_tell(near, rule) == pytest.approx(200, rel=0.01)
    assert images_to_tell(Number(0.55, 0.35, 0.75, 50, 1, "a"), rule) == pytest.approx(800, rel=0.01)
    assert images_to_tell(Number(0.5, 0.3, 0.7, 50, 1, "a"), rule) == np.inf
    z = 2.807 / 1.96  # normal quantiles of 0.005 and 0.05
    assert images_to_tell(near, rule, holm([0.3] * 10)) == pytest.approx(200 * z**2, rel=0.01)


def test_a_claim_needs_all_of_its_checks() -> None:
    assert overall(Counter(holds=3)) == "holds"
    assert overall(Counter(fails=2)) == "fails"
    assert overall(Counter({"holds": 3, "cannot be told": 1})) == "cannot be told"
    assert overall(Counter({"fails": 3, "cannot be told": 1})) == "cannot be told"
    assert overall(Counter(holds=3, fails=1)) == "holds in part"
    assert overall(Counter({"holds": 1, "fails": 1, "cannot be told": 4})) == "holds in part"
    assert overall(Counter()) == "not measured"


def test_a_first_stage_no_better_than_the_mean_image_has_nothing_to_lose() -> None:
    vit, detr = both(matrix(vit=(14.0, 13.0), detr=(25.0, 17.0)))
    assert number_of(LEFT, vit) is None
    assert difference(LEFT, vit, detr) is None
    assert "| embed is no better than the mean image " in "\n".join(
        claim_section(CLAIMS[0], (vit, detr), lines_of(CLAIMS[0], (vit, detr)))
    )


def test_models_without_common_images_are_compared_unpaired() -> None:
    records = matrix(vit=(35.0, 31.0), detr=(25.0, 17.0))
    last = Check("psnr", "last", "PSNR", difference=Rule("above", 0.0))
    paired = difference(last, *both(records))
    for one in records:
        if one.cell.model == "detr":
            one.images = [f"other-{i}" for i in range(N)]
    found = difference(last, *both(records))
    assert paired is not None
    assert found is not None
    assert found.value == pytest.approx(paired.value) == pytest.approx(14.0)
    assert "unpaired" in found.where
    assert paired.high is not None
    assert paired.low is not None
    assert found.high is not None
    assert found.low is not None
    assert found.high - found.low > 1.3 * (paired.high - paired.low), "what the images share does not cancel"


def test_seeds_are_counted() -> None:
    records = matrix(vit=(35.0, 31.0), detr=(25.0, 17.0))
    records += [record("vit", stage, "modular", 1, psnr=level) for stage, level in (("embed", 35.0), ("block06", 29.0))]
    vit, _ = both(records)
    found = number_of(LEFT, vit)
    assert found is not None
    assert (found.seeds, found.n) == (2, N)
    assert found.value == pytest.approx(0.75, abs=0.01)


def test_neighbouring_stages_are_judged_by_their_worst_pair() -> None:
    records = [record("vit", stage, "modular", cross_application=1.2) for stage in ("a", "b", "c")]
    for one, row in zip(records, ({"b": 1.1, "c": 9.0}, {"a": 1.2, "c": 1.3}, {"b": 2.5, "a": 9.0}), strict=True):
        one.measurements["cross_application"].facts["row"] = {
            stage: {"n": 8, "mean": mean, "low": 0.9 * mean, "high": 1.1 * mean} for stage, mean in row.items()
        }
    value = [[1.0, 0.9, 0.1], [0.9, 1.0, 0.7], [0.1, 0.7, 1.0]]
    body = {
        "stages": ["a", "b", "c"],
        "cka": {
            "value": value,
            "low": (np.array(value) - 0.1).tolist(),
            "high": (np.array(value) + 0.1).tolist(),
            "n": 50,
        },
    }
    relation = RelationRecord(RelationName("vit", "tiny", "vit"), {}, "ok", invented.PROVENANCE, body=body)
    [vit] = subjects(Results(records, [relation]), "modular")
    cross, cka = CLAIMS[3].checks
    found = number_of(cross, vit)
    assert found is not None
    assert (found.value, found.where, found.n) == (2.5, "inverse of c at b", 8)
    assert cross.vit is not None
    assert conclude(found, cross.vit) == "fails"
    found = number_of(cka, vit)
    assert found is not None
    assert (found.value, found.where) == (0.7, "b and c")
    assert cka.vit is not None
    assert conclude(found, cka.vit) == "holds"


def test_families() -> None:
    assert family_of("vit", "bundled vit") == "ViT"
    assert family_of("small", "timm vit_tiny_patch16_224 (timm/vit_tiny)") == "ViT"
    assert family_of("big", "transformers facebook/detr-resnet-50") == "DETR"
    assert family_of("atto", "onnx deimv2_hgnetv2_atto_coco") == "DETR"
    assert family_of("net", "timm convnext_atto") is None


def test_the_page_has_a_verdict_for_each_claim_and_says_what_is_missing(tmp_path: Path) -> None:
    suite = tmp_path / "tiny.toml"
    suite.write_text(SUITE)
    out = tmp_path / "results"
    store = Store(out / "records" / "tiny")
    for one in matrix(vit=(35.0, 31.0), detr=(25.0, 17.0), correspondence=8.0):
        store.write(one)
    done = invoke("findings", suite, "--out", out)
    assert done.exit_code == 0, done.output
    page = (out / "findings.md").read_text()
    assert "## tiny: a suite for tests" in page
    assert "### Detail: holds" in page
    assert "### Spatial correspondence: holds" in page
    assert "### Colour: not measured" in page
    assert "### Inter-layer: not measured" in page
    row = next(line for line in page.splitlines() if "left from the first to the last encoder stage (`psnr`)" in line)
    assert row.count("**holds**") == 3
    assert "| 0.80 [" in row
    assert "(n=24; embed to block06), above 0.5: **holds**" in row
    assert "not measured" in next(line for line in page.splitlines() if "(`lpips`)" in line)
    lift = next(line for line in page.splitlines() if "(`correspondence`, x)" in line)
    assert "above floor 1.00: **holds**" in lift
    wrong = invoke("findings", suite, "--out", out, "--method", "modula")
    assert wrong.exit_code == 2
    assert "did you mean modular" in wrong.stderr


def test_without_models_of_either_family_nothing_is_claimed() -> None:
    one = record("net", "layer1", "modular", psnr=20.0)
    one.weights = Weights("timm convnext", "0" * 64)
    page = findings_markdown([Results([one])])
    assert "No model of a known family" in page
    assert "###" not in page


def test_every_heading_names_the_regime_and_the_largest_budget_is_read() -> None:
    records = []
    for passes, levels in ((1600, (33.0, 20.0)), (25_600, (35.0, 31.0))):
        for one in matrix(vit=levels, detr=(25.0, 17.0)):
            if one.cell.method == "modular":
                one.cell.method, one.notes = f"modular@{passes}", {"curve": [[passes, 1.0, 0.1, 20.0]]}
                assert one.cost is not None
                one.cost.fit_image_passes = passes
            if one.cell.method != "mean" or passes == 1600:
                records.append(one)
    page = findings_markdown([Results(records)])
    assert "- `vit` (ViT): embed, block06, read out by `modular` (25.6k passes); encoder up to `block06`." in page
    assert "### Detail: holds, by `modular` (25.6k passes)" in page
    assert "vit (ViT), 25.6k passes" in page
    assert "| 0.80 [" in page
    earlier = findings_markdown([Results(records)], ["modular@1600"])
    assert "by `modular@1600` (1.6k passes)" in earlier
    assert "| 0.80 [" not in earlier


def test_what_has_not_converged_is_no_finding() -> None:
    records = matrix(vit=(35.0, 31.0), detr=(25.0, 17.0))
    for one in records:
        if one.cell.method == "modular":
            stopped = (one.cell.model, one.cell.stage) == ("vit", "block06")
            one.notes = {
                "converged": not stopped,
                "converged_share": 0.5 if stopped else 1.0,
                "iterations": 300,
                "ceiling": 500,
            }
    vit, detr = subjects(Results(records), "modular")
    assert (vit.encoder, detr.encoder) == (["embed"], ["backbone", "encoder"])
    page = findings_markdown([Results(records)])
    assert (
        "- `vit` (ViT): embed, read out by `modular` (converged after 300 iterations); encoder up to `embed`. "
        "Left out: block06 (500 iterations, 50 % converged)." in page
    )


def test_two_methods_stand_beside_each_other() -> None:
    """What both say is of the model, what one says alone of the method; each check of the page counts once."""
    records = matrix(vit=(35.0, 31.0), detr=(25.0, 17.0))
    worse = [one for one in matrix(vit=(35.0, 18.0), detr=(25.0, 17.0)) if one.cell.method == "modular"]
    for one in worse:
        one.cell.method = "layerwise"
    page = findings_markdown([Results([*records, *worse])], ["modular", "layerwise"])
    assert "of the methods `modular` and `layerwise`" in page
    opening = page.splitlines()[2:5]
    assert opening[0].startswith(
        "This page shows which of 4 claims of Rathjens et al. 2024 hold for `vit` and `detr`, as "
    )
    assert opening[1] == "The methods are `modular` and `layerwise` (closed form)."
    assert opening[2].startswith(
        "Claim by claim: Detail holds (tiny by `modular`) and holds in part (tiny by `layerwise`); "
    )
    [line] = [line for line in page.splitlines() if line.startswith(f"| {CLAIMS[0].text}")]
    _, modular, layerwise = (cell.strip() for cell in line.strip("| ").split("|"))
    assert modular.startswith("**holds**")
    assert layerwise == "**holds in part** (2 holds, 2 fails)", "the ViT loses as much there"
    assert page.index("### Detail: holds, by `modular`") < page.index("### Detail: holds in part, by `layerwise`")
    assert "| PSNR at the last encoder stage (`psnr`, dB)" in page
    assert "left from the first to the last encoder stage (`psnr`)" in page, "a share has no unit"
    with pytest.raises(UsageError, match="did you mean layerwise"):
        findings_markdown([Results([*records, *worse])], ["modular", "layerwize"])
