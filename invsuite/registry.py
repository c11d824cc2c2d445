"""Every kind of unit by name: methods, measures, model adapters, data sources.

A unit registers itself with a decorator, whether it is one of the suite's own or a plug-in's:

    @register.method
    class GreyWorld(Method): ...

The suite's own units live in one package a kind. Nothing of a package is imported before one of its units is asked for:
a name is looked for in the module of that name first (``timm`` in ``invsuite.models.adapters.timm``), and only then in
all modules of the package.

A plug-in is a Python file given with ``--plugin FILE``, or an installed package's entry point in the group
``invsuite.plugins``. Importing it registers what it brings. The templates in ``docs/plugins`` are complete.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from invsuite.errors import InvsuiteError, UsageError, unknown_name

if TYPE_CHECKING:
    from invsuite.data.sources import Source
    from invsuite.methods.base import Method
    from invsuite.metrics.base import Metric
    from invsuite.models.base import Model

Unit = TypeVar("Unit")
AnyClass = TypeVar("AnyClass", bound=type)
Load = Callable[[str, str], "Model"]
GROUP = "invsuite.plugins"


class Registry(Mapping[str, Unit], Generic[Unit]):
    """The units of one kind by name, imported when they are asked for.

    Args:
        kind: what a unit is called in messages (``method``).
        package: the package whose modules register the suite's own units.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._units: dict[str, Unit] = {}
        self._owners: dict[str, str] = {}  # the plug-in that registered a name
        self._complete = False

    def __getitem__(self, name: str) -> Unit:
        """Return the unit of this name.

        Raises:
            UsageError: for an unknown name, with the nearest names and the list.
        """
        if name not in self:
            raise unknown_name(self.kind, name, self)
        return self._units[name]

    def __contains__(self, name: object) -> bool:
        if name not in self._units and not self._complete and isinstance(name, str):
            if importlib.util.find_spec(self._package) and name.isidentifier():
                self._import(f"{self._package}.{name}")
            if name not in self._units:
                self._import_all()
        return name in self._units

    def __iter__(self) -> Iterator[str]:
        self._import_all()
        return iter(self._units)

    def __len__(self) -> int:
        self._import_all()
        return len(self._units)

    def add(self, name: str, unit: Unit) -> None:
        """Register ``unit`` under ``name``.

        Raises:
            UsageError: for a name that is taken, saying who has it.
        """
        plugin = _loading[-1] if _loading else ""
        if name in self._units or (plugin and name in self):
            owner = self._owners.get(name)
            whose = f"plug-in '{owner}'" if owner else "the suite"
            raise UsageError(f"{_prefix()}{self.kind} '{name}' is already one of {whose}; choose another name")
        self._units[name] = unit
        if plugin:
            self._owners[name] = plugin

    def owner(self, name: str) -> str:
        """Return the plug-in that registered ``name``; "" for one of the suite's own."""
        return self._owners.get(name, "")

    def forget(self, plugin: str) -> None:
        """Remove every unit that ``plugin`` registered."""
        for name in [name for name, owner in self._owners.items() if owner == plugin]:
            del self._units[name], self._owners[name]

    def _import(self, module: str) -> None:
        """Import ``module`` if there is one of that name, as the suite's own even while a plug-in is loaded."""
        if module in sys.modules or importlib.util.find_spec(module) is None:
            return
        kept, _loading[:] = _loading[:], []
        try:
            importlib.import_module(module)
        finally:
            _loading[:] = kept

    def _import_all(self) -> None:
        if self._complete:
            return
        self._complete = True  # a unit that is being imported may ask for the names of the others
        try:
            package = importlib.import_module(self._package)
            for found in pkgutil.walk_packages(package.__path__, f"{self._package}."):
                self._import(found.name)
        except BaseException:
            self._complete = False
            raise


@dataclass(frozen=True)
class HubWeights:
    """Weights on the Hugging Face hub: the ``repository`` and its ``licence``."""

    repository: str
    licence: str


@dataclass(frozen=True)
class Adapter:
    """What turns a model's source ``ADAPTER:NAME`` into a model.

    Attributes:
        load: a function of the model's name in tables and of NAME that returns the model.
        stages: what the stages of its models are called, in words.
        hub: a function of NAME that returns which weights must be fetched from the hub; None where none must.
        random: a function like ``load``, with a seed as third argument, that returns the architecture with random
            weights without reading the model's own; None where those are loaded and replaced.
    """

    load: Load
    stages: str = ""
    hub: Callable[[str], HubWeights | None] = lambda name: None
    random: Callable[[str, str, int], Model] | None = None


METHODS: Registry[type[Method]] = Registry("method", "invsuite.methods")
METRICS: Registry[type[Metric]] = Registry("metric", "invsuite.metrics")
ADAPTERS: Registry[Adapter] = Registry("model adapter", "invsuite.models.adapters")
SOURCES: Registry[type[Source]] = Registry("kind of data", "invsuite.data")
REGISTRIES: tuple[Registry[Any], ...] = (METHODS, METRICS, ADAPTERS, SOURCES)


class Register:
    """The decorators by which units register themselves."""

    def method(self, cls: AnyClass) -> AnyClass:
        """Register a `Method` under its ``name``."""
        METHODS.add(_named(cls, "method"), cls)
        return cls

    def metric(self, cls: AnyClass) -> AnyClass:
        """Register a `Metric` under its ``name``."""
        METRICS.add(_named(cls, "metric"), cls)
        return cls

    def model(self, adapter: str, **facts: Any) -> Callable[[Load], Load]:
        """Register ``load(name, source)`` for models ``adapter:source``; its docstring's first line is listed.

        Args:
            adapter: the word in front of the colon.
            facts: the other attributes of the `Adapter`.
        """

        def decorate(load: Load) -> Load:
            if not callable(load):
                raise UsageError(f"{_prefix()}the loader of model adapter '{adapter}' cannot be called")
            ADAPTERS.add(adapter, Adapter(load, **facts))
            return load

        return decorate

    def dataset(self, kind: str) -> Callable[[AnyClass], AnyClass]:
        """Register a data source, a dataclass whose fields are the keys of ``[data.*]`` with this ``kind``."""

        def decorate(cls: AnyClass) -> AnyClass:
            if not hasattr(cls, "open") or not hasattr(cls, "__dataclass_fields__"):
                raise UsageError(f"{_prefix()}dataset '{kind}' is no dataclass with a method open(size, resampling)")
            SOURCES.add(kind, cls)
            return cls

        return decorate


register = Register()


def _named(cls: Any, kind: str) -> str:
    """Return the ``name`` that a class declares.

    Raises:
        UsageError: if it has none or is not derived from the base class of its ``kind``.
    """
    bases = [base.__name__ for base in getattr(cls, "__mro__", ())[1:]]
    base = kind.capitalize()
    if base not in bases or not isinstance(getattr(cls, "name", None), str):
        raise UsageError(f"{_prefix()}{cls!r} is no {kind}: derive it from {base}, give it a name")
    return str(cls.name)


@dataclass(frozen=True)
class Plugin:
    """A plug-in that was loaded: where it comes from and the SHA-256 of its file."""

    name: str
    sha256: str


_loading: list[str] = []  # the plug-in being imported, if any
_loaded: dict[str, Plugin] = {}


def loaded_plugins() -> tuple[Plugin, ...]:
    """Return the plug-ins of this process, in the order in which they were loaded."""
    return tuple(_loaded.values())


def forget_plugins() -> None:
    """Unload every plug-in: the registries hold the suite's own units alone."""
    for registry in REGISTRIES:
        for plugin in _loaded:
            registry.forget(plugin)
    _loaded.clear()


def load_plugins(paths: Sequence[Path] = ()) -> None:
    """Load every installed entry point and the files ``paths``, each once a process.

    Raises:
        UsageError: for a file that is not there, breaks, registers nothing, or takes a name that is taken; nothing of
            that plug-in stays registered.
    """
    for point in entry_points(group=GROUP):
        _load(f"{point.name} ({point.value})", lambda point=point: _import_point(point))  # type: ignore[misc]
    for path in paths:
        _load(str(path.expanduser().resolve()), lambda path=path: _import_file(path.expanduser()))  # type: ignore[misc]


def _load(name: str, load: Callable[[], bytes]) -> None:
    """Import one plug-in, unless it was imported before, and take everything back if that fails."""
    if name in _loaded:
        return
    _loading.append(name)
    try:
        code = load()
        if not any(name in registry._owners.values() for registry in REGISTRIES):
            raise UsageError(f"plug-in '{name}' registers nothing: decorate its units with invsuite.register")
    except Exception as error:
        for registry in REGISTRIES:
            registry.forget(name)
        if isinstance(error, InvsuiteError):
            raise
        raise UsageError(f"plug-in '{name}' cannot be loaded: {type(error).__name__}: {error}") from error
    finally:
        _loading.pop()
    _loaded[name] = Plugin(name, hashlib.sha256(code).hexdigest())


def _import_file(path: Path) -> bytes:
    """Import a plug-in's file and return its content."""
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
    return code


def _import_point(point: EntryPoint) -> bytes:
    """Import an installed plug-in and return the content of its module's file."""
    point.load()
    return Path(str(sys.modules[point.module].__file__)).read_bytes()


def _prefix() -> str:
    return f"plug-in '{_loading[-1]}': " if _loading else ""
