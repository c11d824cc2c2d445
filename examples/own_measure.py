"""Define a measure in a script and score a method by it."""

from dataclasses import dataclass

import invsuite


@invsuite.register.metric
@dataclass(frozen=True)
class Brightness(invsuite.Metric):
    """Difference of the reconstruction's mean brightness from the image's own."""

    name = "brightness"
    label = "Brightness"
    direction = "zero"

    def compute(self, scoring: invsuite.Scoring) -> invsuite.Values:
        pairs = zip(scoring.reconstructions, scoring.images, strict=True)
        return invsuite.Values([float(ours.mean() - true.mean()) for ours, true in pairs])


model = invsuite.load_model("bundled:vit")
fitted = invsuite.fit("ridge", model, ["block06"], invsuite.open_images("scenes", model.image_size, seed=11, count=200))
results = invsuite.score(
    fitted, invsuite.open_images("scenes", model.image_size, seed=13, count=8), metrics=["brightness"]
)
print(results.to_frame().to_string(index=False))
