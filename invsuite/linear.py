"""Ridge regression from sums accumulated a batch at a time, lambda by generalised cross-validation or held-out rows."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

LAMBDAS = tuple(10.0**e for e in range(-8, 3))  # relative to the mean eigenvalue of the standardised features
GRAM_BLOCK = 256  # columns: small enough to skip most of the half that is symmetric, large enough for a fast product


@dataclass
class NormalEquations:
    """Sums over images in float64 - X'X and X'Y over all places, sums of x and y per place - which are all that ridge
    regression with an intercept per place needs."""

    images: int = 0
    xx: torch.Tensor = field(default_factory=lambda: torch.zeros(()))
    xy: torch.Tensor = field(default_factory=lambda: torch.zeros(()))
    yy: float = 0.0
    x: torch.Tensor = field(default_factory=lambda: torch.zeros(()))
    y: torch.Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, features: torch.Tensor, targets: torch.Tensor, square: float | None = None) -> None:
        """Accumulate a batch; products are computed in float32 a batch, sums kept in float64.

        Args:
            features: (B, places, d).
            targets: (B, places, t).
            square: the targets' sum of squares, if it is known already.
        """
        self.images += len(features)
        rows, wanted = features.flatten(0, 1), targets.flatten(0, 1)
        self.xx = self.xx + gram(rows).double()
        self.xy = self.xy + (rows.T @ wanted).double()
        self.yy += sum_of_squares(targets) if square is None else square
        self.x = self.x + features.sum(0).double()  # over the few images of a batch float32 is exact enough
        self.y = self.y + targets.sum(0).double()

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


def sum_of_squares(targets: torch.Tensor) -> float:
    """Sum of squares, a row in float32, rows added in float64."""
    return float(torch.linalg.vecdot(targets, targets).sum(dtype=torch.float64))


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
    """The centred normal equations in the eigenbasis of the standardised features, where every lambda is cheap."""

    fit: NormalEquations
    spread: float
    scale: torch.Tensor
    values: torch.Tensor
    vectors: torch.Tensor
    rotated: torch.Tensor

    @classmethod
    def of(cls, fit: NormalEquations) -> Spectrum:
        """One eigendecomposition."""
        xx, xy, yy = fit.around(*fit.means())
        scale = xx.diagonal().clamp(min=1e-12 * float(xx.diagonal().max()) + 1e-300).sqrt()
        values, vectors = torch.linalg.eigh(xx / torch.outer(scale, scale))
        # products are float32: directions within its rounding hold nothing, and dividing by them would blow that up
        held = values > 0.5 * torch.finfo(torch.float32).eps * len(values) ** 0.5
        rotated = vectors.T @ (xy / scale[:, None]) * held[:, None]
        return cls(fit, yy, scale, values * held, vectors, rotated)

    def gcv(self, relative: float) -> tuple[float | None, float]:
        """Generalised cross-validation error per row and effective degrees of freedom.

        Golub, Heath & Wahba 1979, eq. 1.4: (RSS / n) / (1 - df / n)^2, with RSS and df from n, ||y||^2, the
        eigenvalues v and the rotated X'Y alone. None where df reaches n.
        """
        values, penalty = self.values, relative * float(self.values.mean())
        energy = self.rotated.square().sum(1)
        residual = self.spread - float((energy * (values + 2 * penalty) / (values + penalty).square()).sum())
        residual = max(residual, 1e-9 * self.spread)
        degrees = self.fit.places + float((values / (values + penalty)).sum())
        left = 1 - degrees / self.fit.rows
        return (residual / left**2 if left > 1e-3 else None), degrees

    def solve(self, relative: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights (d, t) and intercepts (places, t) in float64."""
        shrunk = self.rotated / (self.values + relative * self.values.mean())[:, None]
        weight = (self.vectors @ shrunk) / self.scale[:, None]
        mean_x, mean_y = self.fit.means()
        return weight, mean_y - mean_x @ weight


def error_of(weight: torch.Tensor, xx: torch.Tensor, xy: torch.Tensor, yy: float) -> float:
    """Mean squared error per row of ``y = x W`` from the sums of `NormalEquations.around`."""
    return yy - 2 * float((xy * weight).sum()) + float(((xx @ weight) * weight).sum())


def solve(fit: NormalEquations, select: NormalEquations | None) -> Solution:
    """Ridge weights for the lambda with the least error on the selection rows, or by generalised cross-validation.

    Args:
        fit: sums over the fit rows.
        select: sums over the selection rows; None chooses by generalised cross-validation.
    """
    spectrum = Spectrum.of(fit)
    seen = None if select is None else select.around(*fit.means())

    def error(relative: float) -> float:
        if seen is not None:
            return error_of(spectrum.solve(relative)[0], *seen)
        found = spectrum.gcv(relative)[0]
        return float("inf") if found is None else found

    relative = min(LAMBDAS, key=error)
    if select is None and error(relative) == float("inf"):
        relative = LAMBDAS[-1]  # fewer rows than anything can be learned from: shrink all the way
    weight, bias = spectrum.solve(relative)
    gcv, degrees = spectrum.gcv(relative)
    return Solution(weight.float(), bias.float(), relative, degrees, None if gcv is None else gcv / weight.shape[1])
