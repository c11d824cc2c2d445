"""A method of your own: `invsuite bench --plugin method.py`, with [methods.grey-world] in the suite file."""

from dataclasses import dataclass

import torch

from invsuite import FitCost, Fitted, Inverter, Method, Problem, Representation, register


@dataclass(frozen=True)
class OneColour(Inverter):
    image: torch.Tensor  # (1, 3, H, W)

    def invert(self, representation: Representation) -> torch.Tensor:  # (B, 3, H, W) in [0, 1]
        return self.image.expand(len(representation), -1, -1, -1)

    def tensors(self) -> dict[str, torch.Tensor]:  # kept, so that a measure added later needs no new fit
        return {"image": self.image}


@register.method
@dataclass(frozen=True)
class GreyWorld(Method):
    """Every reconstruction is the mean colour of the fit images; parameters are fields with defaults."""

    brightness: float = 1.0

    name = "grey-world"
    family = "floor"
    source = "where it was published"

    def fit(self, problem: Problem) -> Fitted:
        sums = sum(images.mean((2, 3)).sum(0) for images in problem.fit.batches(64))
        colour = (self.brightness * sums / len(problem.fit)).clamp(0, 1)
        image = colour.view(1, 3, 1, 1).expand(1, 3, *problem.model.image_size).to(problem.device)
        return Fitted(OneColour(image), FitCost(image_passes=dict.fromkeys(problem.stages, len(problem.fit))))

    def restore(self, problem, tensors, notes) -> OneColour:  # from what `OneColour.tensors` gave
        return OneColour(tensors["image"].to(problem.device))
