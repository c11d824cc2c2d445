"""Measures. A new one is one new file and one line here."""

from __future__ import annotations

from invsuite.errors import unknown_name
from invsuite.metrics.base import Metric
from invsuite.metrics.colour import (
    ChromaGain,
    ChromaGainGrey,
    ColourGainSet,
    ColourGainSwap,
    ColourGainSwapImage,
    ColourLeak,
    DeltaE,
    HueGain,
    HueGainImage,
    HueGainLch,
)
from invsuite.metrics.consistency import FeatureError, WitnessError
from invsuite.metrics.correspondence import CentroidShift, ChangeAuc, Correspondence, Leak
from invsuite.metrics.detection import (
    DetectorAp,
    DetectorRecallLarge,
    DetectorRecallMedium,
    DetectorRecallSmall,
    DetectorSelfAp,
)
from invsuite.metrics.fidelity import MsSsim, Psnr, Ssim
from invsuite.metrics.interlayer import CrossApplication
from invsuite.metrics.patches import AffinityCorrelation, PatchMatch, PatchMatch1, PatchMatch2
from invsuite.metrics.perceptual import Dists, Lpips, LpipsVgg
from invsuite.metrics.prototype import PullToPrototype
from invsuite.metrics.representation import RepresentationShift
from invsuite.metrics.segments import BoundaryF, ObjectUnity
from invsuite.metrics.task import JsDivergence, Top1Agreement, Top5Agreement

ALL: tuple[type[Metric], ...] = (
    Psnr,
    Ssim,
    MsSsim,
    Lpips,
    LpipsVgg,
    Dists,
    Correspondence,
    CentroidShift,
    ChangeAuc,
    Leak,
    BoundaryF,
    PatchMatch,
    PatchMatch1,
    PatchMatch2,
    AffinityCorrelation,
    ObjectUnity,
    HueGain,
    HueGainImage,
    HueGainLch,
    ChromaGain,
    ChromaGainGrey,
    ColourGainSet,
    ColourGainSwap,
    ColourGainSwapImage,
    DeltaE,
    ColourLeak,
    RepresentationShift,
    PullToPrototype,
    FeatureError,
    WitnessError,
    Top1Agreement,
    Top5Agreement,
    JsDivergence,
    DetectorAp,
    DetectorSelfAp,
    DetectorRecallSmall,
    DetectorRecallMedium,
    DetectorRecallLarge,
    CrossApplication,
)
METRICS: dict[str, type[Metric]] = {metric.name: metric for metric in ALL}


def make_metric(name: str) -> Metric:
    """A measure by name, with its default parameters.

    Raises:
        UsageError: for an unknown name, listing what exists.
    """
    if name not in METRICS:
        raise unknown_name("metric", name, METRICS)
    return METRICS[name]()
