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

import math
import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any
from unicodedata import category

from invsuite._system.files import file_name
from invsuite._system.validation import Natural, NotEmpty, build, key_path
from invsuite.errors import UsageError, unknown_name
from invsuite.registry import NAME, NAME_WORDS

LARGEST = 2**63 - 1  # of TOML's whole numbers
PROSE = ("title", "published")  # keys of texts that may have several lines
BACKSLASH = "; in double quotes a backslash begins an escape: write paths with / or in single quotes"
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
            tree = tomllib.loads(suite_text(path))
            _check_values(tree, "")
        except ValueError as error:
            hint = BACKSLASH if re.search(r"escape|hex|\\\\", str(error)) else ""
            raise UsageError(f"it is not TOML: {error}{hint}") from error
        except RecursionError as error:
            raise UsageError("its tables are nested too deep") from error
        file = build(SuiteFile, tree)
        _check_name(file.name, "name")
        files: dict[str, str] = {}
        for name in file.models:
            for part in name.split("/"):  # as in USER/NAME
                _check_name(part, key_path("models", name or '""'))
            if files.setdefault(file_name(name), name) != name:
                raise UsageError(f"'models.{name}' and 'models.{files[file_name(name)]}' would share files: rename one")
        for name in file.methods:
            _check_name(name, key_path("methods", name or '""'))
        return file


def suite_text(path: Path) -> str:
    """Return the text of a suite file; a byte order mark, which editors of Windows leave, is none of it.

    Raises:
        UsageError: if it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"it is not TOML: it is not UTF-8: {error}") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"it cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _check_name(name: str, where: str) -> None:
    if not NAME.fullmatch(name):
        raise UsageError(f"'{where}' is {name!r}: a name becomes part of file names; use {NAME_WORDS}")


def _check_values(value: Any, where: str) -> None:
    """Raise `UsageError` for a number that no computer holds, or a text with a character that is none, by its key."""
    if isinstance(value, dict):
        for key, entry in value.items():
            _check_values(entry, key_path(where, key))
    elif isinstance(value, list):
        for number, entry in enumerate(value):
            _check_values(entry, f"{where}[{number}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"'{where}' is {value}, expected a finite number")
    elif isinstance(value, int) and abs(value) > LARGEST:
        raise UsageError(f"'{where}' is {value if abs(value) < 10**30 else 'a number of many digits'}, too large")
    elif isinstance(value, str) and not where.startswith(PROSE) and any(category(letter) == "Cc" for letter in value):
        raise UsageError(f"'{where}' is {value!r}, which holds a character that cannot be printed{BACKSLASH}")


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
