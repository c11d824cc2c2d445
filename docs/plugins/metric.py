"""A measure of your own: `invsuite bench --plugin metric.py`, with "worst_error" among the suite's metrics."""

from dataclasses import dataclass

from invsuite.metrics.base import Metric, Scoring, Values, batches


@dataclass(frozen=True)
class WorstError(Metric):
    """Largest difference of one colour value of the reconstruction from the image's own."""

    name = "worst_error"
    label = "Worst error"
    direction = "lower"
    digits = 2

    def compute(self, scoring: Scoring) -> Values:
        errors = [(made - true).abs() for made, true in batches(scoring.reconstructions, scoring.images)]
        return Values([float(image.max()) for error in errors for image in error])


def register(registry) -> None:
    registry.metric(WorstError)
