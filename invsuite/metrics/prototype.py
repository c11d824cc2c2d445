"""Pull to prototype: shown an object in an unusual colour, does the reconstruction show its class's usual one?"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from invsuite.data.edits import MIN_SHARE
from invsuite.data.split import Split
from invsuite.errors import NotApplicable
from invsuite.metrics.base import Edits, Scoring, mean_defined
from invsuite.metrics.colour import MADE_FLAT, NO_CHROMA_LAB, SHOWN_FLAT, Measured, TurnedHue, reasons_that_hold
from invsuite.metrics.regions import Array, Regions
from invsuite.registry import register

FIT_IMAGES = 1000  # of the fit split that prototypes are measured on, the first ones
CONCENTRATION = 0.5  # mean resultant length below which a class has no usual hue
RAYLEIGH = 3.0  # n times squared resultant length that random hues exceed in 5 % of samples, -log(0.05)
LEAST_TURN = np.pi / 4  # the colour shown must be this far from the class's, or there is nowhere to be pulled


@dataclass(frozen=True)
class Prototype:
    """A class's usual colour: CIELab ``hue`` in radians, ``concentration`` 0-1 of its objects' hues (1: all the
    same), and ``objects``, how many were measured."""

    hue: float
    concentration: float
    objects: int

    @property
    def usual(self) -> bool:
        """Does the class have one? Hues must be concentrated, and more than chance makes them (Rayleigh test at 5 %,
        Mardia & Jupp 2000, section 6.3.1)."""
        return self.concentration >= CONCENTRATION and self.objects * self.concentration**2 >= RAYLEIGH


_measured: dict[str, dict[str, Prototype]] = {}  # by the split's digest


def prototypes(fit: Split) -> dict[str, Prototype]:
    """The usual colour of each class by its name, measured on the objects of (the first `FIT_IMAGES` of) a split.

    An object's colour is the mean of its pixels in the a*b* plane of CIELab, in which pixels without chroma weigh
    nothing. A class's hue is the circular median of its objects' (Mardia & Jupp 2000, section 2.2), weighted by their
    chroma: unlike the mean it is not drawn aside by the few objects of other colours.

    Raises:
        NotApplicable: if the split has no classes: a folder of photos has no object masks.
    """
    classes = fit.dataset.classes
    if not classes:
        raise NotApplicable(f"class colours are measured on the fit images; '{fit.dataset.name}' has no object masks")
    digest = fit.digest()
    if digest not in _measured:
        colours: dict[str, list[Array]] = {}
        for sample in map(fit.sample, islice(range(len(fit)), FIT_IMAGES)):
            large = [i for i in sample.instances if i.mask.mean() >= MIN_SHARE]
            if not large:
                continue
            masks = torch.from_numpy(np.stack([i.mask for i in large]))
            found = mean_colour(sample.image.expand(len(large), -1, -1, -1), Regions(masks))
            for instance, colour in zip(large, found, strict=True):
                colours.setdefault(classes[instance.label], []).append(colour)
        _measured[digest] = {name: usual_colour(np.stack(found)) for name, found in colours.items()}
    return _measured[digest]


def mean_colour(images: torch.Tensor, regions: Regions) -> Array:
    """Mean a* and b* (n, 2) of images (n, 3, H, W) in [0, 1] over the pixels of each region."""
    lab = regions.lab(images)
    return np.stack([regions.mean(lab[:, 1]), regions.mean(lab[:, 2])], 1)


def usual_colour(colours: Array) -> Prototype:
    """The prototype of objects whose mean a* and b* are ``colours`` (n, 2)."""
    hues, chroma = np.arctan2(colours[:, 1], colours[:, 0]), np.hypot(colours[:, 0], colours[:, 1])
    distance = np.abs(_arc(hues[:, None] - hues)) @ chroma
    resultant = float(np.hypot(*colours.sum(0)) / max(float(chroma.sum()), 1e-12))
    return Prototype(float(hues[distance.argmin()]), resultant, len(colours))


def pull(made: Array, shown: Array, prototype: Array) -> Array:
    """Where the hue made (n,) lies on the way from the hue shown, 0, to the prototype's, 1; all in radians.

    The way is the shorter arc; beyond either end values leave [0, 1].
    """
    return _arc(made - shown) / _arc(prototype - shown)


def _arc(angle: Array) -> Array:
    return np.arctan2(np.sin(angle), np.cos(angle))


@register.metric
@dataclass(frozen=True)
class PullToPrototype(TurnedHue):
    """One object's hue is turned, and so wears an unusual colour: where does the reconstruction's hue (CIELab) lie
    between the hue shown, 0, and the usual one of the object's class, 1? Usual hues are measured on the fit images.

    Objects whose class has no usual hue, or that are shown within an eighth of the circle of it, are left out. The
    floor is the pull to the usual hues of the other classes.
    """

    name = "pull_to_prototype"
    label = "Pull to prototype"
    direction = "zero"
    digits = 2
    tolerance = 0.2

    def measure(self, edits: Edits, scoring: Scoring) -> Measured:
        found = prototypes(scoring.subject.fit)
        usual = {name: p.hue for name, p in found.items() if p.usual}
        if not scoring.subject.classes:
            raise NotApplicable("the classes of the scored images have no names")
        names = [scoring.subject.classes[label] for label in edits.labels if label is not None]
        if len(names) < len(edits.rows):
            raise NotApplicable("a whole image has no class whose colour it could be pulled to")
        regions = Regions(edits.masks)
        shown, made = (mean_colour(images, regions) for images in (edits.edited, edits.after))
        hue_shown, hue_made = np.arctan2(shown[:, 1], shown[:, 0]), np.arctan2(made[:, 1], made[:, 0])
        shown_flat = np.hypot(*shown.T) < NO_CHROMA_LAB
        made_flat = np.hypot(*made.T) < NO_CHROMA_LAB

        def pulls(prototype: Array) -> Array:
            """To a hue for each object; NaN for none, and where there is nowhere to be pulled."""
            near = np.abs(_arc(prototype - hue_shown)) < LEAST_TURN
            values = pull(hue_made, hue_shown, np.where(near, hue_shown + np.pi, prototype))
            return np.where(near | shown_flat | made_flat, np.nan, values)

        own = np.array([usual.get(name, np.nan) for name in names])
        values = pulls(own)
        others = [pulls(np.array([np.nan if name == other else hue for name in names])) for other, hue in usual.items()]
        cases = {
            "the object's class has no usual hue on the fit images": np.isnan(own),
            SHOWN_FLAT: shown_flat,
            MADE_FLAT: made_flat & ~shown_flat,
            "the colour shown is near the class's usual one": np.abs(_arc(own - hue_shown)) < LEAST_TURN,
        }
        floor = torch.from_numpy(np.stack(others))[:, torch.from_numpy(~np.isnan(values))] if others else None
        return Measured(
            torch.from_numpy(values),
            reasons_that_hold(cases),
            ceiling=0.0,
            floor=None if floor is None else mean_defined(floor),
        )
