"""Optimisers of a batch of images that share nothing: each image has its own state, rate and line search.

An optimiser is told the objective and the gradient at where the parameters stand, and moves them to where they are to
be evaluated next. Every call is one evaluation per image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

ARMIJO = 1e-4  # part of the fall that the slope promises which a step must bring
PATIENCE = 6  # refused steps in a row after which the curvature measured so far is forgotten
CURVATURE = 1e-10  # least curvature, s'y over y'y, that is remembered


class Optimiser(ABC):
    """What moves the parameters of a batch; axis 0 of every one of them is the image.

    Args:
        parameters: with their gradients after each evaluation.
    """

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        self.parameters = list(parameters)

    @abstractmethod
    def step(self, objectives: torch.Tensor, rates: torch.Tensor) -> torch.Tensor:
        """Move every image's parameters to where they are to be evaluated next.

        Args:
            objectives: of the images (B,) where the parameters stand.
            rates: learning rates (B,).

        Returns:
            Whether each image (B,) stays where it was evaluated, or has refused that point.
        """

    @abstractmethod
    def keep(self, rows: torch.Tensor, parameters: Sequence[torch.Tensor]) -> None:
        """Go on with the images ``rows`` alone, whose ``parameters`` are new tensors."""

    def restart(self, rows: torch.Tensor) -> None:  # noqa: B027 - one without a line search need not know
        """Forget what was measured of the images ``rows`` (a mask): their objective has changed."""

    def give(self, gradients: Sequence[torch.Tensor]) -> None:
        """Set the gradients of the parameters, which the next `step` takes."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient

    def gradients(self) -> list[torch.Tensor]:
        """Return the gradients, which are removed."""
        gradients = []
        for parameter in self.parameters:
            assert parameter.grad is not None
            gradients.append(parameter.grad)
            parameter.grad = None
        return gradients


def per_image(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return one value per image (B,) as it broadcasts on a tensor (B, ...)."""
    return values.view(-1, *[1] * (like.dim() - 1))


class Adam(Optimiser):
    """Adam (Kingma & Ba 2015, arXiv 1412.6980) with its usual constants and a rate per image."""

    BETAS = (0.9, 0.999)

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        super().__init__(parameters)
        self.first = [torch.zeros_like(p) for p in self.parameters]
        self.second = [torch.zeros_like(p) for p in self.parameters]
        self.steps = 0

    @torch.no_grad()
    def step(self, objectives: torch.Tensor, rates: torch.Tensor) -> torch.Tensor:
        """Make one update."""
        self.steps += 1
        one, two = (1 - beta**self.steps for beta in self.BETAS)
        for parameter, gradient, first, second in zip(
            self.parameters, self.gradients(), self.first, self.second, strict=True
        ):
            first.lerp_(gradient, 1 - self.BETAS[0])
            second.mul_(self.BETAS[1]).addcmul_(gradient, gradient, value=1 - self.BETAS[1])
            parameter.sub_(first / ((second / two).sqrt_().add_(1e-8)) * per_image(rates / one, first))
        return torch.ones_like(objectives, dtype=torch.bool)

    def keep(self, rows: torch.Tensor, parameters: Sequence[torch.Tensor]) -> None:
        """Keep the moments of ``rows``."""
        self.parameters = list(parameters)
        self.first, self.second = [m[rows] for m in self.first], [m[rows] for m in self.second]


class NormalisedMomentum(Optimiser):
    """Gradient descent with momentum on steps whose root mean square is the learning rate.

    Mahendran & Vedaldi set the rate by hand for every network and layer; dividing each image's gradient by its root
    mean square lets one rate, in units of pixel values, serve every stage.
    """

    def __init__(self, parameters: Sequence[torch.Tensor], momentum: float) -> None:
        super().__init__(parameters)
        self.momentum = momentum
        self.velocity = [torch.zeros_like(p) for p in self.parameters]

    @torch.no_grad()
    def step(self, objectives: torch.Tensor, rates: torch.Tensor) -> torch.Tensor:
        """Make one update."""
        for parameter, gradient, velocity in zip(self.parameters, self.gradients(), self.velocity, strict=True):
            size = gradient.flatten(1).square().mean(1).sqrt().clamp(min=1e-20)
            velocity.mul_(self.momentum).sub_(gradient * per_image(rates / size, gradient))
            parameter.add_(velocity)
        return torch.ones_like(objectives, dtype=torch.bool)

    def keep(self, rows: torch.Tensor, parameters: Sequence[torch.Tensor]) -> None:
        """Keep the velocities of ``rows``."""
        self.parameters = list(parameters)
        self.velocity = [velocity[rows] for velocity in self.velocity]


class LBFGS(Optimiser):
    """L-BFGS (Liu & Nocedal 1989) with a backtracking line search, for each image by itself.

    ``torch.optim.LBFGS`` takes a batch for one vector, with one step length for all. Here every image has its own
    curvature pairs and step length, and an image that refuses a point is evaluated nearer to where it stands while its
    neighbours go on. The rate is the root mean square of the first step in units of the parameters.

    Args:
        parameters: of the batch.
        memory: curvature pairs that are kept.
    """

    def __init__(self, parameters: Sequence[torch.Tensor], memory: int) -> None:
        super().__init__(parameters)
        self.memory = memory
        self.point = self._flat([p.detach() for p in self.parameters]).clone()
        count = len(self.point)
        self.trial, self.gradient = self.point, torch.zeros_like(self.point)
        self.direction = torch.zeros_like(self.point)
        self.objective = self.point.new_full((count,), float("inf"))
        self.slope, self.length = self.point.new_zeros(count), self.point.new_ones(count)
        self.scale, self.refused = self.point.new_ones(count), self.point.new_zeros(count)
        self.pairs: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []  # moves, gradient changes, 1 / s'y

    @torch.no_grad()
    def step(self, objectives: torch.Tensor, rates: torch.Tensor) -> torch.Tensor:
        """Accept or refuse where each image was evaluated, and choose its next point."""
        gradient = self._flat(self.gradients())
        fresh = torch.isinf(self.objective)
        promised = self.length * self.slope
        accepted = objectives <= self.objective + ARMIJO * promised  # false for NaN
        everywhere = bool(accepted.all())
        move, change = self.trial - self.point, gradient - self.gradient
        bend, size = _dot(move, change), _dot(change, change)
        useful = accepted & ~fresh & (bend > CURVATURE * size)
        self.pairs.append((move, change, torch.where(useful, 1 / bend, torch.zeros_like(bend))))
        del self.pairs[: -self.memory]
        # a quadratic through what was measured says how far to go back
        excess = objectives - self.objective - promised
        nearer = torch.nan_to_num(-promised / (2 * excess), nan=0.1).clamp(0.1, 0.5)
        self.length = torch.where(accepted, torch.ones_like(nearer), self.length * nearer)
        self.refused = torch.where(accepted, 0, self.refused + 1)
        if everywhere:
            self.point, self.gradient = self.trial, gradient
        else:
            rows = accepted[:, None]
            self.point = torch.where(rows, self.trial, self.point)
            self.gradient = torch.where(rows, gradient, self.gradient)
        self.objective = torch.where(accepted, objectives, self.objective)
        first = rates / self.gradient.square().mean(1).sqrt().clamp(min=1e-20)
        stuck = self.refused >= PATIENCE
        if bool(stuck.any()):  # steepest descent goes on from as short a step as was refused last
            self._forget(stuck)
            self.refused = torch.where(stuck, 0, self.refused)
            self.scale = torch.where(stuck, self.scale * self.length, self.scale)
            self.length = torch.where(stuck, 1, self.length)
        self.scale = torch.where(useful, bend / size, torch.where(fresh & accepted, first, self.scale))
        new = self._direction()
        turn = accepted | stuck
        self.direction = new if bool(turn.all()) else torch.where(turn[:, None], new, self.direction)
        self.slope = _dot(self.direction, self.gradient)
        self.trial = self.point + self.length[:, None] * self.direction
        self._move()
        return accepted

    def keep(self, rows: torch.Tensor, parameters: Sequence[torch.Tensor]) -> None:
        """Keep what was measured of ``rows``."""
        self.parameters = list(parameters)
        for name in ("point", "trial", "gradient", "direction", "objective", "slope", "length", "scale", "refused"):
            setattr(self, name, getattr(self, name)[rows])
        self.pairs = [(move[rows], change[rows], inverse[rows]) for move, change, inverse in self.pairs]

    def restart(self, rows: torch.Tensor) -> None:
        """Take the next evaluation of ``rows`` for their first."""
        self._forget(rows)
        self.objective = torch.where(rows, float("inf"), self.objective)

    def _forget(self, rows: torch.Tensor) -> None:
        self.pairs = [(move, change, torch.where(rows, 0, inverse)) for move, change, inverse in self.pairs]

    def _direction(self) -> torch.Tensor:
        """Return minus the gradient times the inverse Hessian that the pairs tell of (Nocedal's two loops)."""
        direction, shares = -self.gradient, []
        for move, change, inverse in reversed(self.pairs):
            share = inverse * _dot(move, direction)
            shares.append(share)
            direction = torch.addcmul(direction, change, share[:, None], value=-1)
        direction = direction * self.scale[:, None]
        for (move, change, inverse), share in zip(self.pairs, reversed(shares), strict=True):
            direction.addcmul_(move, (share - inverse * _dot(change, direction))[:, None])
        return direction

    @staticmethod
    def _flat(tensors: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat([tensor.flatten(1) for tensor in tensors], 1)

    def _move(self) -> None:
        sizes = [parameter[0].numel() for parameter in self.parameters]
        for parameter, values in zip(self.parameters, self.trial.split(sizes, 1), strict=True):
            parameter.copy_(values.view_as(parameter))


def _dot(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
    return (one * two).sum(1)
