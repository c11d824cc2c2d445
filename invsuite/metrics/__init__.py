"""Measures. A new one is one new file and one line here."""

from __future__ import annotations

from invsuite.errors import unknown_name
from invsuite.metrics.base import Metric
from invsuite.metrics.colour import HueGain
from invsuite.metrics.correspondence import Correspondence
from invsuite.metrics.fidelity import Psnr, Ssim
from invsuite.metrics.perceptual import Lpips

METRICS: dict[str, type[Metric]] = {m.name: m for m in (Psnr, Ssim, Lpips, Correspondence, HueGain)}


def make_metric(name: str) -> Metric:
    """A measure by name, with its default parameters.

    Raises:
        UsageError: for an unknown name, listing what exists.
    """
    if name not in METRICS:
        raise unknown_name("metric", name, METRICS)
    return METRICS[name]()
