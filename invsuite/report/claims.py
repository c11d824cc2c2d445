"""The claims of Rathjens et al. 2024 (arXiv 2412.06534) as checks with declared rules: the one place to change them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Family = Literal["ViT", "DETR"]
#: Words in a model's name or weights that tell its family; the first that matches counts.
FAMILIES: dict[Family, tuple[str, ...]] = {"DETR": ("detr", "deim", "d-fine", "dfine"), "ViT": ("vit", "deit")}
#: First letters of stages that are no part of an encoder: what a detector's decoder and any model's answer hold.
BEHIND_ENCODER = ("decoder", "prediction", "head", "quer")
FEWEST = 8  # images below which an interval is not trusted with a verdict
FLOOR = "mean"  # the method whose reconstruction knows nothing of the image

#: What is computed from a measure: ``left`` is the share of the first stage's gain over the mean image that is left at
#: the last encoder stage; ``last`` its value there; ``between`` the least favourable pair of neighbouring stages.
Quantity = Literal["left", "last", "between"]


@dataclass(frozen=True)
class Rule:
    """Holds where the whole interval lies on ``side`` of ``bound``, fails where it lies on the other, and else, or with
    fewer than `FEWEST` images, cannot be told. ``bound`` None is the floor in the record: what the measure gives by
    random permutation."""

    side: Literal["above", "below"]
    bound: float | None


@dataclass(frozen=True)
class Check:
    """One number that a claim is held against.

    Attributes:
        measure: name in the records.
        quantity: what is computed from it.
        says: what the number is, in words.
        vit, detr: the rule for each family; None where the claim says nothing of it.
        gap: the rule for the difference, ViT minus DETR.
    """

    measure: str
    quantity: Quantity
    says: str
    vit: Rule | None = None
    detr: Rule | None = None
    gap: Rule | None = None

    def rule(self, family: Family) -> Rule | None:
        """The rule for a model of ``family``."""
        return self.vit if family == "ViT" else self.detr


@dataclass(frozen=True)
class Claim:
    """A claim in the paper's sense, and its checks."""

    title: str
    text: str
    checks: tuple[Check, ...]


LEFT = "share of the gain over the mean image that is left from the first to the last encoder stage"
LAST = "at the last encoder stage"
MOST, LEAST = Rule("above", 0.5), Rule("below", 0.5)
MORE, LESS = Rule("above", 0.0), Rule("below", 0.0)
OVER_FLOOR, UNDER_FLOOR = Rule("above", None), Rule("below", None)


def _kept(measure: str) -> Check:
    return Check(measure, "left", LEFT, MOST, LEAST, MORE)


def _beats_floor(measure: str, says: str, rule: Rule) -> Check:
    return Check(measure, "last", f"{says} {LAST}", rule, rule)


CLAIMS = (
    Claim(
        "Detail",
        "ViT keeps fine detail deep into its encoder; DETR loses it.",
        (
            *(_kept(measure) for measure in ("psnr", "ssim", "lpips")),
            Check("psnr", "last", f"PSNR {LAST}", gap=MORE),
            Check("ssim", "last", f"SSIM {LAST}", gap=MORE),
            Check("lpips", "last", f"LPIPS {LAST}", gap=LESS),
        ),
    ),
    Claim(
        "Spatial correspondence",
        "A change of one object changes the reconstruction in the same place, in both models.",
        (
            _beats_floor("correspondence", "change within the object over its share of the area", OVER_FLOOR),
            _beats_floor("change_auc", "the change as a detector of the object", OVER_FLOOR),
            _beats_floor("leak", "share of the change outside of the object", UNDER_FLOOR),
            _beats_floor("centroid_shift", "distance of the change's centre from the object's", UNDER_FLOOR),
            _beats_floor("patch_match", "patches that match best in their own place", OVER_FLOOR),
        ),
    ),
    Claim(
        "Colour",
        "ViT reproduces changes of colour; DETR drifts to the usual colour of the object's class.",
        (
            Check("hue_gain", "last", f"share of a hue turn that is reproduced {LAST}", MOST, LEAST, MORE),
            Check("hue_gain_lch", "last", f"the same at constant lightness {LAST}", MOST, LEAST, MORE),
            Check("chroma_gain", "last", f"share of a change of chroma that is reproduced {LAST}", MOST, LEAST, MORE),
            Check("pull_to_prototype", "last", f"pull to the class's usual hue {LAST}", LEAST, MOST, LESS),
        ),
    ),
    Claim(
        "Inter-layer",
        "Representations of neighbouring stages are correlated, and an inverse of one serves the next.",
        (
            Check(
                "cross_application",
                "between",
                "error of an inverse at the neighbouring stage over that at its own, worst pair",
                Rule("below", 1.5),
                Rule("below", 1.5),
            ),
            Check("cka", "between", "debiased linear CKA of neighbouring stages, worst pair", MOST, MOST),
        ),
    ),
)
