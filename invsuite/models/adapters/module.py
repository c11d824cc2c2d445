"""Networks that a Python file of the user's makes: ``module:FILE.py:FUNCTION``. The file is run as code."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from invsuite._system.files import expand_path, file_digest
from invsuite._system.needs import Need, path_need
from invsuite.errors import MissingPath, UsageError, boundary, unknown_name
from invsuite.models.base import Model
from invsuite.models.checkpoint import check_finite, load_weights, marked
from invsuite.registry import register

FORM = "FILE.py:FUNCTION, or FILE.py:FUNCTION@WEIGHTS, e.g. module:net.py:build"


@dataclass(frozen=True)
class Parts:
    """What a source names.

    Attributes:
        file: of Python code.
        function: in it.
        weights: a file of them; None where the function reads its own.
        place: where in the file they lie (`invsuite.models.checkpoint.Place`); "" finds them.
    """

    file: Path
    function: str
    weights: Path | None = None
    place: str = ""

    @classmethod
    def of(cls, source: str) -> Parts:
        """Return the parts of ``FILE.py:FUNCTION@WEIGHTS#PLACE``, of which those behind ``@`` may be left out.

        Raises:
            UsageError: for another form.
        """
        code, _, rest = source.partition("@")
        file, colon, function = code.rpartition(":")
        if not colon or not function.isidentifier():
            raise UsageError(f"module source '{source}' is not {FORM}")
        whole = expand_path(rest) if rest else None
        if whole is None or whole.exists():
            return cls(expand_path(file), function, whole)
        path, _, place = str(whole).partition("#")
        return cls(expand_path(file), function, Path(path), place)


def needs(source: str) -> tuple[Need, ...]:
    """Return the needs for the file of code, and for the weights if it names any."""
    parts = Parts.of(source)
    paths = [("code", parts.file), ("weights", parts.weights)]
    return tuple(path_need(what, path) for what, path in paths if path is not None)


def load_random(source: str, name: str, seed: int) -> Model:
    """Return the network with random weights; a file of weights that the source names is not read."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _model(replace(Parts.of(source), weights=None), source, name)
    return model.randomised(seed)


@register.model("module", stages="those that the function names, head", needs=needs, random=load_random)
def load(source: str, name: str) -> Model:
    """Load the network that a function in a Python file returns; the file is run as code, with all that you may do.

    ``FILE.py:FUNCTION`` returns a `Model`, or a network and a dictionary of the arguments of `Model.from_module`
    (``stages``, ``size``, ``mean``, ``std`` ...). ``FILE.py:FUNCTION@WEIGHTS`` fills the network from a checkpoint,
    wherever its weights lie in it; ``#PLACE`` behind it chooses where it holds several.

    Raises:
        MissingPath: for a file that does not exist.
        UsageError: for a function that is not there or returns something else, or arguments that do not fit.
        OutsideError: for whatever the file raises.
        WeightsError: if weights do not fit, naming the tensor.
    """
    parts = Parts.of(source)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # a function that reads no weights gives the same ones every time
        return _model(parts, source, name)


def _model(parts: Parts, source: str, name: str) -> Model:
    """Return the model that the function makes, under the suite's ``name``."""
    result, code = _call(parts)
    if isinstance(result, Model):
        if parts.weights is not None:
            raise UsageError(f"'{source}' returns a model with its weights: leave {parts.weights} out")
        result.name = name
        digest = marked(result.fingerprint(), [code, result.origin.sha256])
        result.origin = replace(result.origin, sha256=digest, source=f"module {source}")
        return result
    network, arguments = _network_of(result, source)
    remarks = () if parts.weights is None else load_weights(network, parts.weights, parts.place)
    check_finite(network, f"'{source}'")
    known = [key for key in inspect.signature(Model.from_module).parameters if key not in ("network", "name", "code")]
    for key in arguments:
        if key not in known:
            raise unknown_name(f"argument of '{source}'", str(key), known)
    missing = [key for key in ("stages", "size", "mean", "std") if key not in arguments]
    if missing:
        raise UsageError(f"'{source}' does not say {' and '.join(map(repr, missing))}: put it into its dictionary")
    named = {"source": f"module {source}"} | dict(arguments)
    model = Model.from_module(network, name=name, code=code, **named)
    model.remarks = (*remarks, *model.remarks)
    return model


def _network_of(result: object, source: str) -> tuple[nn.Module, Mapping[str, Any]]:
    """Return the network and the arguments in what a function returned.

    Raises:
        UsageError: for anything else.
    """
    if isinstance(result, tuple) and len(result) == 2:
        network, arguments = result
        if isinstance(network, nn.Module) and isinstance(arguments, Mapping):
            return network, arguments
    kinds = [type(part).__name__ for part in result] if isinstance(result, tuple) else [type(result).__name__]
    raise UsageError(
        f"'{source}' returns {', '.join(kinds)}: expected an invsuite.Model, or a network and a dictionary with "
        "'stages', 'size', 'mean' and 'std'"
    )


def _call(parts: Parts) -> tuple[object, str]:
    """Return what the function gives, and a SHA-256 over its file and its name.

    Raises:
        MissingPath: if the file does not exist.
        UsageError: if it is no Python file, or has no such function.
        OutsideError: for whatever it raises.
    """
    if not parts.file.is_file():
        raise MissingPath(f"file '{parts.file}' of a module does not exist")
    code = file_digest(parts.file)
    module_name = f"invsuite_module_{hashlib.sha256(f'{parts.file.resolve()} {code}'.encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(module_name, parts.file)
    if spec is None or spec.loader is None:
        raise UsageError(f"'{parts.file}' is no Python file: it must end in .py")
    with boundary(f"module file '{parts.file}'"), _beside(parts.file):
        module = sys.modules.get(module_name)
        if module is None:
            module = importlib.util.module_from_spec(spec)
            sys.modules[module_name] = module  # dataclasses look their module up
            try:
                spec.loader.exec_module(module)
            except BaseException:
                del sys.modules[module_name]
                raise
        function = getattr(module, parts.function, None)
        if not callable(function):
            known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
            raise unknown_name(f"function of '{parts.file}'", parts.function, known)
        return function(), marked(code, [parts.function])


@contextmanager
def _beside(file: Path) -> Iterator[None]:
    """Let a file import what lies beside it, as Python does for a script."""
    folder = str(file.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
