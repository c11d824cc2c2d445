"""A measure of your own: `invsuite bench --plugin metric.py`, with "worst_error" among the suite's metrics."""

from dataclasses import dataclass

from invsuite import Metric, Scoring, Values, register


@register.metric
@dataclass(frozen=True)
class WorstError(Metric):
    """Largest difference of one colour value of the reconstruction from the image's own."""

    name = "worst_error"
    label = "Worst error"
    direction = "lower"
    digits = 2

    def compute(self, scoring: Scoring) -> Values:
        pairs = zip(scoring.reconstructions.split(32), scoring.images.split(32), strict=True)
        return Values([float(error.max()) for made, true in pairs for error in (made - true).abs()])
