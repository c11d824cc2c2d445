"""Ridge regression, lambda by generalised cross-validation or held-out rows.

From sums accumulated a batch at a time (`NormalEquations`), or, where rows are fewer than features, from the rows
themselves (`Examples`): the same solution by the other of two Gram matrices, whose eigenvalues are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

COLUMNS = 4096  # features that are put into float64 at a time
LAMBDAS = tuple(10.0**e for e in range(-8, 3))  # relative to the mean eigenvalue of the standardised features
GRAM_BLOCK = 256  # columns: small enough to skip most of the half that is symmetric, large enough for a fast product

#: sum of targets over images, (places, t), and their sum of squares
TargetSums = tuple[torch.Tensor, float]
#: weights (d, t) -> mean squared error per row
Judge = Callable[[torch.Tensor], float]


class Equations(Protocol):
    """Rows of features and targets, accumulated, as ridge regression with an intercept per place needs them."""

    @property
    def places(self) -> int:
        """Rows of an image, each with an intercept of its own."""

    @property
    def rows(self) -> int:
        """Rows in all."""

    def add(self, features: torch.Tensor, targets: torch.Tensor, sums: TargetSums | None = None) -> None:
        """Accumulate a batch: features (B, places, d), targets (B, places, t) and, if known, the targets' sums."""

    def means(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean features (places, d) and mean targets (places, t)."""

    def spectrum(self) -> Spectrum:
        """One eigendecomposition."""

    def judge(self, mean_x: torch.Tensor, mean_y: torch.Tensor) -> Judge:
        """Return the error on these rows of weights whose intercepts come from the given means."""

    def state(self) -> dict[str, Any]:
        """Return tensors and plain values from which `include` makes the same equations."""

    def include(self, state: dict[str, Any], away_x: torch.Tensor, away_y: torch.Tensor) -> None:
        """Accumulate the rows of other equations, given by their state, after adding ``away`` (d,) and (t,) to each."""


@dataclass
class NormalEquations:
    """Sums over images in float64, which are all that ridge regression with an intercept per place needs.

    They are X'X and X'Y over all places, and the sums of x and y per place.
    """

    images: int = 0
    xx: torch.Tensor = field(default_factory=lambda: torch.zeros(()))
    xy: torch.Tensor = field(default_factory=lambda: torch.zeros(()))
    yy: float = 0.0
    x: torch.Tensor = field(default_factory=lambda: torch.zeros(()))
    y: torch.Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, features: torch.Tensor, targets: torch.Tensor, sums: TargetSums | None = None) -> None:
        """Accumulate a batch; products are computed in float32 a batch, sums kept in float64.

        Features are taken around their means over the batch: of one that varies by little around a large value, a
        product as it stands holds nothing but rounding.

        Args:
            features: (B, places, d).
            targets: (B, places, t).
            sums: the targets', if they are known already.
        """
        centre = features.mean((0, 1))
        features = features - centre
        rows, wanted = features.flatten(0, 1), targets.flatten(0, 1)
        y, yy = sums or target_sums(targets)
        batch = {
            "images": len(features),
            "xx": gram(rows).double(),
            "xy": (rows.T @ wanted).double(),
            "yy": yy,
            "x": features.sum(0).double(),  # over the few images of a batch float32 is exact enough
            "y": y,
        }
        self.include(batch, centre, torch.zeros_like(y[0]))

    @property
    def places(self) -> int:
        """Rows of an image, each with an intercept of its own."""
        return len(self.x)

    @property
    def rows(self) -> int:
        """Rows in all."""
        return self.images * self.places

    def means(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean features (places, d) and mean targets (places, t)."""
        return self.x / self.images, self.y / self.images

    def around(self, mean_x: torch.Tensor, mean_y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
        """X'X, X'Y and ||Y||^2, a row, of these rows with the given means per place taken off."""
        xx = self.xx - self.x.T @ mean_x - mean_x.T @ self.x + self.images * mean_x.T @ mean_x
        xy = self.xy - self.x.T @ mean_y - mean_x.T @ self.y + self.images * mean_x.T @ mean_y
        yy = self.yy - 2 * float((self.y * mean_y).sum()) + self.images * float(mean_y.square().sum())
        return xx / self.rows, xy / self.rows, yy / self.rows

    def spectrum(self) -> Spectrum:
        """From the features' own Gram matrix (d, d)."""
        xx, xy, yy = self.around(*self.means())
        scale = _scale(xx.diagonal())
        values, vectors = torch.linalg.eigh(xx / torch.outer(scale, scale))
        held = _held(values, len(values))
        rotated = vectors.T @ (xy / scale[:, None]) * held[:, None]
        values = values * held
        return Spectrum(self, yy, values, float(values.mean()), rotated, lambda z: (vectors @ z) / scale[:, None])

    def judge(self, mean_x: torch.Tensor, mean_y: torch.Tensor) -> Judge:
        """From the sums alone."""
        seen = self.around(mean_x, mean_y)
        return lambda weight: error_of(weight, *seen)

    def state(self) -> dict[str, Any]:
        """Return the sums."""
        return {"images": self.images, "xx": self.xx, "xy": self.xy, "yy": self.yy, "x": self.x, "y": self.y}

    def include(self, state: dict[str, Any], away_x: torch.Tensor, away_y: torch.Tensor) -> None:
        """Add the sums of other images, whose rows have moved ``away``."""
        images, x, y = state["images"], state["x"], state["y"]
        if not images:
            return
        away_x, away_y, rows = away_x.double(), away_y.double(), images * len(x)
        all_x, all_y = x.sum(0), y.sum(0)
        crossed = torch.outer(all_x, away_x)
        self.images += images
        self.xx = self.xx + state["xx"] + (crossed + crossed.T + rows * torch.outer(away_x, away_x))
        self.xy = self.xy + state["xy"] + (torch.outer(all_x, away_y) + torch.outer(away_x, all_y + rows * away_y))
        self.yy += state["yy"] + 2 * float(all_y @ away_y) + rows * float(away_y.square().sum())
        self.x, self.y = self.x + x + images * away_x, self.y + y + images * away_y


@dataclass
class Examples:
    """The rows themselves, one per image, for ridge regression in its dual form.

    It decomposes their Gram matrix (n, n), which costs less than the features' where rows are fewer (Saunders,
    Gammerman & Vovk 1998).
    """

    features: list[torch.Tensor] = field(default_factory=list)
    targets: list[torch.Tensor] = field(default_factory=list)
    places: int = 1

    def add(self, features: torch.Tensor, targets: torch.Tensor, sums: TargetSums | None = None) -> None:
        """Keep a batch of features (B, 1, d) and targets (B, 1, t)."""
        self.features.append(features[:, 0])
        self.targets.append(targets[:, 0])

    @property
    def rows(self) -> int:
        """Rows in all."""
        return sum(len(part) for part in self.features)

    def means(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean features (1, d) and mean targets (1, t)."""
        x, y = (torch.cat(parts).sum(0, keepdim=True, dtype=torch.float64) for parts in (self.features, self.targets))
        return x / self.rows, y / self.rows

    def spectrum(self) -> Spectrum:
        """From the rows' Gram matrix K = X X' / n = U v U': the features' eigenvectors are X' U / sqrt(n v)."""
        mean_x, mean_y = self.means()
        x, y, n = torch.cat(self.features), torch.cat(self.targets).double() - mean_y, self.rows
        scale = _scale(torch.cat([part.square().mean(0) for part in _columns(x, mean_x)]))
        gram = torch.zeros(n, n, dtype=torch.float64, device=x.device)
        for part, deviation in zip(_columns(x, mean_x), scale.split(COLUMNS), strict=True):
            part = part / deviation
            gram += part @ part.T / n
        values, vectors = torch.linalg.eigh(gram)
        held = _held(values, x.shape[1])
        values = values * held
        rotated = (values / n).sqrt()[:, None] * (vectors.T @ y)
        vectors = vectors * torch.where(held, (n * values).rsqrt(), 0.0)

        def back(z: torch.Tensor) -> torch.Tensor:
            rows = vectors @ z
            return torch.cat([part.T @ rows for part in _columns(x, mean_x)]) / scale.square()[:, None]

        return Spectrum(self, float(y.square().sum()) / n, values, float(values.sum()) / x.shape[1], rotated, back)

    def judge(self, mean_x: torch.Tensor, mean_y: torch.Tensor) -> Judge:
        """From the rows."""
        x, y = torch.cat(self.features).double() - mean_x, torch.cat(self.targets).double() - mean_y
        return lambda weight: float((y - x @ weight).square().sum()) / self.rows

    def state(self) -> dict[str, Any]:
        """Return the rows, by batch."""
        return {"features": list(self.features), "targets": list(self.targets)}

    def include(self, state: dict[str, Any], away_x: torch.Tensor, away_y: torch.Tensor) -> None:
        """Add the rows of other images, moved ``away``, behind these."""
        self.features += [rows + away_x for rows in state["features"]]
        self.targets += [rows + away_y for rows in state["targets"]]


def _columns(x: torch.Tensor, mean: torch.Tensor) -> Iterator[torch.Tensor]:
    """Features (n, d) in float64 around their ``mean`` (1, d), some columns at a time."""
    return (part.double() - centre for part, centre in zip(x.split(COLUMNS, 1), mean.split(COLUMNS, 1), strict=True))


def _scale(variances: torch.Tensor) -> torch.Tensor:
    """Deviation of each feature; of those that do not vary, next to nothing, but not zero."""
    return variances.clamp(min=1e-12 * float(variances.max()) + 1e-300).sqrt()


def _held(values: torch.Tensor, features: int) -> torch.Tensor:
    """Tell which eigenvalues of standardised features are more than rounding.

    Features and products of them are float32, and dividing by what is left of them would blow it up.
    """
    return values > 0.5 * torch.finfo(torch.float32).eps * features**0.5


def gram(rows: torch.Tensor) -> torch.Tensor:
    """``rows.T @ rows`` of (n, d), where d is large by its blocks on and above the diagonal alone."""
    if rows.shape[1] <= GRAM_BLOCK:
        return rows.T @ rows
    found = rows.new_empty(rows.shape[1], rows.shape[1])
    for start in range(0, rows.shape[1], GRAM_BLOCK):
        own = slice(start, start + GRAM_BLOCK)
        product = rows[:, own].T @ rows[:, start:]
        found[own, start:] = product
        found[start:, own] = product.T
    return found


def target_sums(targets: torch.Tensor) -> TargetSums:
    """Of a batch (B, places, t): over images, and the sum of squares, a row in float32, rows added in float64."""
    return targets.sum(0).double(), float(torch.linalg.vecdot(targets, targets).sum(dtype=torch.float64))


@dataclass(frozen=True)
class Solution:
    """What a choice of lambda came to.

    Attributes:
        weight: (d, t), and ``bias`` (places, t).
        relative: lambda over the mean eigenvalue of the standardised features.
        degrees: effective degrees of freedom, trace of the hat matrix: sum of v / (v + lambda), plus one a place.
        gcv: mean generalised cross-validation error per target value, None where it is not defined.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    relative: float
    degrees: float
    gcv: float | None


@dataclass(frozen=True)
class Spectrum:
    """The centred normal equations in the eigenbasis of the standardised features, where every lambda is cheap.

    Attributes:
        fit: the rows.
        spread: ||Y||^2, a row.
        values: eigenvalues, those that are rounding set to zero; further ones are zero too.
        mean_value: mean over all features.
        rotated: X'Y in the eigenbasis (values, t).
        back: weights (d, t) of the features as they are, from those in the eigenbasis (values, t).
    """

    fit: Equations
    spread: float
    values: torch.Tensor
    mean_value: float
    rotated: torch.Tensor
    back: Callable[[torch.Tensor], torch.Tensor]

    def penalty(self, relative: float) -> float:
        """Lambda; above zero even where no feature varies."""
        return relative * max(self.mean_value, 1e-300)

    def gcv(self, relative: float) -> tuple[float | None, float]:
        """Generalised cross-validation error per row and effective degrees of freedom.

        Golub, Heath & Wahba 1979, eq. 1.4: (RSS / n) / (1 - df / n)^2, with RSS and df from n, ||y||^2, the
        eigenvalues v and the rotated X'Y alone. None where df reaches n.
        """
        values, penalty = self.values, self.penalty(relative)
        energy = self.rotated.square().sum(1)
        residual = self.spread - float((energy * (values + 2 * penalty) / (values + penalty).square()).sum())
        residual = max(residual, 1e-9 * self.spread)
        degrees = self.fit.places + float((values / (values + penalty)).sum())
        left = 1 - degrees / self.fit.rows
        return (residual / left**2 if left > 1e-3 else None), degrees

    def solve(self, relative: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights (d, t) and intercepts (places, t) in float64."""
        weight = self.back(self.rotated / (self.values + self.penalty(relative))[:, None])
        mean_x, mean_y = self.fit.means()
        return weight, mean_y - mean_x @ weight


def error_of(weight: torch.Tensor, xx: torch.Tensor, xy: torch.Tensor, yy: float) -> float:
    """Mean squared error per row of ``y = x W`` from the sums of `NormalEquations.around`."""
    return yy - 2 * float((xy * weight).sum()) + float(((xx @ weight) * weight).sum())


def solve(fit: Equations, select: Equations | None) -> Solution:
    """Ridge weights for the lambda with the least error on the selection rows, or by generalised cross-validation.

    Args:
        fit: the fit rows.
        select: the selection rows; None chooses by generalised cross-validation.
    """
    spectrum = fit.spectrum()
    judge = None if select is None else select.judge(*fit.means())

    def error(relative: float) -> float:
        if judge is not None:
            return judge(spectrum.solve(relative)[0])
        found = spectrum.gcv(relative)[0]
        return float("inf") if found is None else found

    relative = min(LAMBDAS, key=error)
    if select is None and error(relative) == float("inf"):
        relative = LAMBDAS[-1]  # fewer rows than anything can be learned from: shrink all the way
    weight, bias = spectrum.solve(relative)
    gcv, degrees = spectrum.gcv(relative)
    return Solution(weight.float(), bias.float(), relative, degrees, None if gcv is None else gcv / weight.shape[1])
