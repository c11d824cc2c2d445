"""Measures. A new one is one class with the decorator ``@register.metric``, here or in a plug-in's file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invsuite.registry import METRICS

if TYPE_CHECKING:
    from invsuite.metrics.base import Metric


def make_metric(name: str) -> Metric:
    """Return the measure of this name, with its default parameters.

    Raises:
        UsageError: for an unknown name, with the nearest names and the list.
    """
    return METRICS[name]()
