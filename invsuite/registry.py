"""A lab's own models, methods, metrics and datasets, beside the suite's own in the same registries.

A plug-in is a Python file given with ``--plugin FILE``, or an installed package's entry point in the group
``invsuite.registry``. Either has a function ``register(registry)``, which is called with a `Registry`. The templates in
``docs/plugins`` are complete.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from invsuite._system.provenance import PLUGINS
from invsuite.data.sources import SOURCES, OwnSource
from invsuite.errors import InvsuiteError, UsageError
from invsuite.methods import METHODS
from invsuite.methods.base import Method
from invsuite.metrics import METRICS
from invsuite.metrics.base import Metric
from invsuite.models import ADAPTERS
from invsuite.models.base import Model

GROUP = "invsuite.registry"
TAKERS: dict[tuple[str, str], str] = {}  # which plug-in took a name: (what, name) -> plug-in


@dataclass
class Registry:
    """Where one plug-in puts what it brings; a name that is taken is refused.

    Every method raises `UsageError` for such a name, saying who has it, and for what is not of the right kind.
    """

    plugin: str
    added: list[tuple[dict[str, Any], str]] = field(default_factory=list)

    def model(self, adapter: str, load: Callable[[str, str], Model]) -> None:
        """``load(name, source)`` for models named ``adapter:source``; its docstring's first line is listed."""
        if not callable(load):
            raise UsageError(f"plug-in '{self.plugin}': the loader of model adapter '{adapter}' cannot be called")
        self._add(ADAPTERS, "model adapter", adapter, load)

    def method(self, method: type[Method]) -> None:
        """A `invsuite.methods.base.Method`, under its ``name``."""
        self._add(METHODS, "method", self._named(method, Method, "method"), method)

    def metric(self, metric: type[Metric]) -> None:
        """A `invsuite.metrics.base.Metric`, under its ``name``."""
        self._add(METRICS, "metric", self._named(metric, Metric, "metric"), metric)

    def dataset(self, kind: str, source: type[OwnSource]) -> None:
        """A dataclass whose fields are the keys of ``[data.*]`` with this ``kind``, and that opens the dataset itself
        (`invsuite.data.sources.OwnSource`)."""
        if not hasattr(source, "open") or not hasattr(source, "__dataclass_fields__"):
            raise UsageError(f"plug-in '{self.plugin}': dataset '{kind}' is no dataclass with a method open(size)")
        self._add(SOURCES, "kind of data", kind, source)

    def _named(self, cls: Any, base: type, what: str) -> str:
        if not (isinstance(cls, type) and issubclass(cls, base) and isinstance(getattr(cls, "name", None), str)):
            raise UsageError(
                f"plug-in '{self.plugin}': {cls!r} is no {what}: derive it from {base.__name__}, give it a name"
            )
        return str(cls.name)  # type: ignore[attr-defined]

    def _add(self, registry: dict[str, Any], what: str, name: str, value: Any) -> None:
        if name in registry:
            taker = TAKERS.get((what, name))
            whose = f"plug-in '{taker}'" if taker else "the suite"
            raise UsageError(f"plug-in '{self.plugin}': {what} '{name}' is already one of {whose}; choose another name")
        registry[name] = value
        TAKERS[what, name] = self.plugin
        self.added.append((registry, name))


def load_plugins(paths: Sequence[Path] = ()) -> None:
    """Load every installed entry point and the files ``paths``, each once a process.

    Their origin and SHA-256 go into the provenance of every record.

    Raises:
        UsageError: for a file that is not there, breaks, has no ``register``, or takes a name that is taken; nothing of
            that plug-in stays registered.
    """
    for point in entry_points(group=GROUP):
        _load(f"{point.name} ({point.value})", lambda point=point: _from_entry_point(point))  # type: ignore[misc]
    for path in paths:
        _load(str(path.expanduser().resolve()), lambda path=path: _from_file(path.expanduser()))  # type: ignore[misc]


def _load(name: str, find: Callable[[], tuple[Any, bytes]]) -> None:
    if any(known["plugin"] == name for known in PLUGINS):
        return
    registry = Registry(name)
    try:
        register, code = find()
        register(registry)
    except Exception as error:
        for names, added in registry.added:
            del names[added]
        for key in [key for key, taker in TAKERS.items() if taker == name]:
            del TAKERS[key]
        if isinstance(error, InvsuiteError):
            raise
        raise UsageError(f"plug-in '{name}' cannot be loaded: {type(error).__name__}: {error}") from error
    PLUGINS.append({"plugin": name, "sha256": hashlib.sha256(code).hexdigest()})


def _from_file(path: Path) -> tuple[Any, bytes]:
    if not path.is_file():
        raise UsageError(f"plug-in file '{path}' does not exist")
    code = path.read_bytes()
    name = f"invsuite_plugin_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"plug-in file '{path}' is no Python file: it must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return _register_of(module, str(path)), code


def _from_entry_point(point: EntryPoint) -> tuple[Any, bytes]:
    found = point.load()
    module = sys.modules[point.module]
    code = Path(str(module.__file__)).read_bytes()
    return (_register_of(found, point.value) if isinstance(found, ModuleType) else found), code


def _register_of(module: ModuleType, where: str) -> Any:
    register = getattr(module, "register", None)
    if not callable(register):
        raise UsageError(f"plug-in '{where}' has no function register(registry)")
    return register
