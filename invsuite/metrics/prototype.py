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
from invsuite.metrics.colour import (
    FLAT_IMAGE,
    FLAT_RECONSTRUCTION,
    NO_CHROMA_LAB,
    Measured,
    TurnedHue,
    reasons_that_hold,
)
from invsuite.metrics.regions import Array, Regions
from invsuite.registry import register

FIT_IMAGES = 1000  # of the fit split that prototypes are measured on, the first ones
CONCENTRATION = 0.5  # mean resultant length below which a class has no usual hue
RAYLEIGH = 3.0  # n times squared resultant length that random hues exceed in 5 % of samples, -log(0.05)
LEAST_TURN = np.pi / 4  # the colour shown must be this far from the class's, or there is nowhere to be pulled


@dataclass(frozen=True)
class Prototype:
    """A class's usual colour.

    Attributes:
        hue: CIELab hue in radians.
        concentration: mean resultant length of its objects' hues, 0 to 1 (all the same).
        objects: how many were measured.
    """

    hue: float
    concentration: float
    objects: int

    @property
    def usual(self) -> bool:
        """Tell whether the class has a usual hue: its objects' hues are concentrated, and not by chance.

        Rayleigh test at 5 %, Mardia & Jupp 2000, section 6.3.1.
        """
        return self.concentration >= CONCENTRATION and self.objects * self.concentration**2 >= RAYLEIGH


_prototypes: dict[str, dict[str, Prototype]] = {}  # by the split's digest


def prototypes(fit: Split) -> dict[str, Prototype]:
    """Return the usual colour of each class by its name, measured on the objects of the first images of a split.

    At most `FIT_IMAGES` are used. An object's colour is the mean of its pixels in a* and b* of CIELab, in which
    pixels without chroma weigh nothing. A class's hue is the circular median of its objects' (Mardia & Jupp 2000,
    section 2.2), weighted by their chroma: unlike the mean it is not drawn aside by the few objects of other colours.

    Raises:
        NotApplicable: if the split has no classes: a folder of photos has no object masks.
    """
    classes = fit.dataset.classes
    if not classes:
        raise NotApplicable(f"class colours are measured on the fit images; '{fit.dataset.name}' has no object masks")
    digest = fit.digest()
    if digest not in _prototypes:
        colours: dict[str, list[Array]] = {}
        for sample in map(fit.sample, islice(range(len(fit)), FIT_IMAGES)):
            large = [i for i in sample.instances if i.mask.mean() >= MIN_SHARE]
            if not large:
                continue
            masks = torch.from_numpy(np.stack([i.mask for i in large]))
            means = mean_colour(sample.image.expand(len(large), -1, -1, -1), Regions(masks))
            for instance, colour in zip(large, means, strict=True):
                colours.setdefault(classes[instance.label], []).append(colour)
        _prototypes[digest] = {name: usual_colour(np.stack(means)) for name, means in colours.items()}
    return _prototypes[digest]


def mean_colour(images: torch.Tensor, regions: Regions) -> Array:
    """Return the mean a* and b* (n, 2) of images (n, 3, H, W) in [0, 1] over the pixels of each region."""
    lab = regions.lab(images)
    return np.stack([regions.mean(lab[:, 1]), regions.mean(lab[:, 2])], 1)


def usual_colour(colours: Array) -> Prototype:
    """Return the prototype of objects whose mean a* and b* are ``colours`` (n, 2)."""
    hues, chroma = np.arctan2(colours[:, 1], colours[:, 0]), np.hypot(colours[:, 0], colours[:, 1])
    distance = np.abs(_arc(hues[:, None] - hues)) @ chroma
    resultant = float(np.hypot(*colours.sum(0)) / max(float(chroma.sum()), 1e-12))
    return Prototype(float(hues[distance.argmin()]), resultant, len(colours))


def pull(reconstructed: Array, edited: Array, prototype: Array) -> Array:
    """Return where the hue reconstructed lies on the way from the hue shown, 0, to the prototype's, 1: (n,).

    All are in radians (n,). The way is the shorter arc; beyond either end values leave [0, 1].

    Examples:
        >>> float(pull(np.array([0.5]), np.array([0.0]), np.array([1.0]))[0])
        0.5
    """
    return _arc(reconstructed - edited) / _arc(prototype - edited)


def _arc(angle: Array) -> Array:
    return np.arctan2(np.sin(angle), np.cos(angle))


@register.metric
@dataclass(frozen=True)
class PullToPrototype(TurnedHue):
    r"""One object's hue is turned: where does the reconstruction's lie between it, 0, and its class's usual one, 1?

    Hues are CIELab's, usual ones are measured on the fit images. Objects whose class has no usual hue, or that are
    shown within an eighth of the circle of it, are left out. The floor is the pull to the usual hues of other classes.

    Formula:
        $$ \frac{\angle(\hat{h}', h')}{\angle(h_{\mathrm{class}}, h')} $$

        $h'$ is the hue shown (after the turn), $\hat{h}'$ the reconstructed one, $h_{\mathrm{class}}$ the usual hue of
        the object's class; $\angle$ is the shorter arc, with its sign. The usual hue of a class is the circular median
        over its objects in the fit images; a class whose hues are spread has none.
    Range:
        Any number; 0 the colour shown, 1 the usual one, outside of that beyond either end.
    Ceiling:
        0.
    Floor:
        The pull to the usual hues of the other classes, measured: a pull that does not exceed it is no pull to the
        class.
    Undefined:
        Where the object's class has no usual hue, the hue shown is near it, or the object has no chroma, as shown or as
        reconstructed; and where the fit images have no labelled objects, as a folder of photos.
    Pitfalls:
        A high value with few defined objects (n) says little.
    Source:
        This suite; circular statistics after Mardia & Jupp 2000.
    """

    name = "pull_to_prototype"
    label = "Pull to prototype"
    direction = "zero"
    digits = 2
    tolerance = 0.2

    def measure(self, edits: Edits, scoring: Scoring) -> Measured:
        usual = {name: p.hue for name, p in prototypes(scoring.subject.fit).items() if p.usual}
        classes = scoring.subject.classes
        if not classes:
            raise NotApplicable("the classes of the scored images have no names")
        names = [classes[label] for label in edits.labels if label is not None]
        if len(names) < len(edits.rows):
            raise NotApplicable("a whole image has no class whose colour it could be pulled to")
        regions = Regions(edits.masks)
        edited, reconstructed = (mean_colour(images, regions) for images in (edits.edited, edits.after))
        hue_edited = np.arctan2(edited[:, 1], edited[:, 0])
        hue_reconstructed = np.arctan2(reconstructed[:, 1], reconstructed[:, 0])
        flat_image = np.hypot(*edited.T) < NO_CHROMA_LAB
        flat_reconstruction = np.hypot(*reconstructed.T) < NO_CHROMA_LAB

        def pulls(prototype: Array) -> Array:
            """Return the pull to one hue per object; NaN for none, and where there is nowhere to be pulled."""
            near = np.abs(_arc(prototype - hue_edited)) < LEAST_TURN
            values = pull(hue_reconstructed, hue_edited, np.where(near, hue_edited + np.pi, prototype))
            return np.where(near | flat_image | flat_reconstruction, np.nan, values)

        own = np.array([usual.get(name, np.nan) for name in names])
        values = pulls(own)
        others = [pulls(np.array([np.nan if name == other else hue for name in names])) for other, hue in usual.items()]
        cases = {
            "the object's class has no usual hue on the fit images": np.isnan(own),
            FLAT_IMAGE: flat_image,
            FLAT_RECONSTRUCTION: flat_reconstruction & ~flat_image,
            "the colour shown is near the class's usual one": np.abs(_arc(own - hue_edited)) < LEAST_TURN,
        }
        floor = torch.from_numpy(np.stack(others))[:, torch.from_numpy(~np.isnan(values))] if others else None
        return Measured(
            torch.from_numpy(values),
            reasons_that_hold(cases),
            ceiling=0.0,
            floor=None if floor is None else mean_defined(floor),
        )
