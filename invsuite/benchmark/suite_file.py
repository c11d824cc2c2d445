"""Suite files (TOML) as they stand: tables whose units nobody has looked up, and for which torch is not imported.

`invsuite.benchmark.suite.load_suite` looks the units up. Every error names the file and the key::

    name = "quick"                       # also the name of the tables
    title = "..."                        # heading of the tables
    seeds = [0]
    metrics = ["psnr", "ssim"]
    edits = 8                            # images that measures with an edited object use
    interlayer = false                   # may be left out: relate the stages of each model, CKA and ridge R2

    [budget]                             # the same for every trained method that names none of its own
    image_passes = 6000                  # or seconds = 60 of own training a stage, or flops = 1e12 of it
    batch = 32

    [engine]                             # may be left out: how training runs
    precision = "auto"                   # auto (bfloat16 on a GPU) | float32 | bfloat16
    cache = "auto"                       # auto (decided from measured rates) | memory | disk | off
    compile = "auto"                     # auto (on a GPU) | on | off

    [data.fit]                           # fit, select and score must be disjoint
    kind = "scenes"                      # scenes | folder | coco ...; select and score: held-back too
    ...
    [models.vit]
    source = "bundled:vit"
    stages = ["embed", "block03"]        # also where modular inverses are cut; ["every"] for all
    witness = "bundled:detr"             # may be left out: a second model, for measures that ask one no method has seen
    data = "coco"                        # may be left out: [data.coco.fit], ... instead of [data.fit], ...

    [[published]]                        # may be left out: what papers state, shown beside the suite's own numbers
    source = "arXiv 2511.15316, table 2"
    n = 1000                             # scored images; may be left out, as budget = "..." in words
    rows = [{model = "vit", stage = "block03", method = "theirs", values = {psnr = 20.1}}]

    [methods.ridge]                      # parameters of the method; kind = "..." to name a row otherwise
    images = 8                           # may be left out: this row is scored on the first 8 scored images
    edits = 2                            # may be left out: this row's own number of edited images
    [methods.layerwise]
    image_passes = [1600, 6400]          # may be left out: this row's own budget; a list makes rows layerwise@1600, ...
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from invsuite._system.validation import Natural, NotEmpty, build
from invsuite.errors import UsageError, unknown_name

Words = Annotated[tuple[str, ...], NotEmpty()]


@dataclass(frozen=True)
class ModelTable:
    """A table ``[models.NAME]`` of a suite file; `invsuite.benchmark.suite.ModelSpec` says what its keys mean."""

    source: str
    stages: Words
    witness: str = ""
    data: str = ""


@dataclass(frozen=True)
class PublishedLine:
    """What a source states of one method at one stage: values by the name of the closest measure."""

    model: str
    stage: str
    method: str
    values: Annotated[dict[str, float], NotEmpty()]


@dataclass(frozen=True)
class PublishedTable:
    """A table ``[[published]]`` of a suite file: what one source states.

    Attributes:
        source: paper and table.
        rows: what it states.
        n: scored images, 0 where it does not say.
        budget: what methods were given, in words, "" where it does not say.
    """

    source: str
    rows: Annotated[tuple[PublishedLine, ...], NotEmpty()]
    n: Natural = 0
    budget: str = ""


@dataclass(frozen=True)
class SuiteFile:
    """A suite as its file says: tables whose kinds and parameters nobody has looked up yet."""

    name: str
    title: str
    seeds: Annotated[tuple[Natural, ...], NotEmpty()]
    metrics: Words
    edits: Natural
    budget: dict[str, Any]
    data: dict[str, dict[str, Any]]
    models: Annotated[dict[str, ModelTable], NotEmpty()]
    methods: Annotated[dict[str, dict[str, Any]], NotEmpty()]
    engine: dict[str, Any] = field(default_factory=dict)
    interlayer: bool = False
    published: tuple[PublishedTable, ...] = ()


def bundled_suites() -> dict[str, Path]:
    """Return the suite files that travel with the package, by name; in a checkout, those of ``benchmarks/``."""
    inside = Path(str(files("invsuite"))) / "suites"
    folder = inside if inside.is_dir() else Path(str(files("invsuite"))).parent / "benchmarks"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def read_suite(name_or_path: str) -> SuiteFile:
    """Read a suite by path or by the name of a bundled one, and look up none of its units.

    Raises:
        UsageError: for an unknown suite, or a key that is missing, unknown or of the wrong type.
    """
    path = suite_path(name_or_path)
    with naming(path):
        try:
            return build(SuiteFile, tomllib.loads(path.read_text(encoding="utf-8")))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"it is not TOML: {error}") from error
        except OSError as error:
            raise UsageError(f"it cannot be read: {error.strerror}") from error


def suite_path(name_or_path: str) -> Path:
    """Return the path of a suite's file.

    Raises:
        UsageError: for the name of no bundled suite.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml":
        return path
    known = bundled_suites()
    if name_or_path not in known:
        raise unknown_name("suite", name_or_path, known)
    return known[name_or_path]


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let every error name the suite's file."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"suite file '{path}': {error}") from error
