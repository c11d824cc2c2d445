"""Define a measure in a script and score two methods by it."""

from dataclasses import dataclass, replace

import invsuite


@invsuite.register.metric
@dataclass(frozen=True)
class Brightness(invsuite.Metric):
    """Mean brightness of the reconstruction minus that of the image."""

    name = "brightness"
    label = "Brightness"
    direction = "zero"

    def compute(self, scoring: invsuite.Scoring) -> invsuite.Values:
        """Return one value per image."""
        pairs = zip(scoring.reconstructions, scoring.images, strict=True)
        return invsuite.Values([float(ours.mean() - true.mean()) for ours, true in pairs])


data = invsuite.load_suite("quick").data
few = replace(data.fit, count=320)
for method in ("mean", "ridge"):
    inverse = invsuite.fit(method, "bundled:vit", ["block06"], few)
    frame = invsuite.score(inverse, data.score, metrics=["brightness"]).to_frame()
    print(frame[["method", "measure", "mean", "low", "high", "n"]].to_string(index=False))
