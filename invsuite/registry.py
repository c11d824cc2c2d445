"""One registry per kind of unit: methods, measures, model adapters, data sources.

A unit registers itself with a decorator, whether it is one of the suite's own or a plug-in's::

    @register.method
    class GreyWorld(Method): ...

The suite's own units live in one package per kind. Looking a name up imports the modules of that package whose text
declares it (``name = "ridge"``, ``@register.model("timm")``), and all modules only where none of these registers it.

A plug-in is a Python file given with ``--plugin FILE``, or an installed package's entry point in the group
``invsuite.plugins``, which is loaded before a name is unknown or a list is complete. Importing it registers its units.
The templates in ``docs/plugins`` are complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from invsuite.errors import InvsuiteError, UsageError, one_line, unknown_name

if TYPE_CHECKING:
    from invsuite._system.needs import Need
    from invsuite.data.base import Source
    from invsuite.methods.base import Method
    from invsuite.metrics.base import Metric
    from invsuite.models.base import Model

Unit = TypeVar("Unit")
AnyClass = TypeVar("AnyClass", bound=type)
Load = Callable[[str, str], "Model"]
GROUP = "invsuite.plugins"


class Registry(Mapping[str, Unit], Generic[Unit]):
    """The units of one kind by name, imported when they are needed.

    Args:
        kind: what messages call a unit (``method``).
        package: the package whose modules register the suite's own units.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._units: dict[str, Unit] = {}
        self._origins: dict[str, tuple[str, str, str]] = {}  # owner ("": the suite), module and name in it
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
        if name not in self._units and not self._complete:
            declaration = re.compile(rf'(?:\bname = |@register\.\w+\()"{re.escape(str(name))}"')
            for module, text in self._sources.items():
                if declaration.search(text):
                    importlib.import_module(module)
            if name not in self._units:
                self._import_all()
        return name in self._units

    def __iter__(self) -> Iterator[str]:
        self._import_all()
        return iter(sorted(self._units))  # whichever module came first

    def __len__(self) -> int:
        self._import_all()
        return len(self._units)

    def add(self, name: str, unit: Unit, source: Any) -> None:
        """Register ``unit``, which the class or function ``source`` defines, under ``name``.

        A unit that was defined again, as a cell of a notebook does, replaces the one before.

        Raises:
            UsageError: for a name that is taken, saying who has it.
        """
        module = source.__module__
        owner = "" if module.partition(".")[0] == "invsuite" else _loading[-1] if _loading else module
        origin = (owner, module, source.__qualname__)
        if ((owner and name in self) or name in self._units) and (_loading or self._origins[name] != origin):
            other = self._origins[name][0]
            whose = f"plug-in '{other}'" if other else "the suite"
            raise UsageError(f"{_prefix()}{self.kind} '{name}' is already one of {whose}; choose another name")
        self._units[name], self._origins[name] = unit, origin

    def owners(self) -> dict[str, str]:
        """Return who registered a unit, by its name: plug-ins, and modules of the user's; the suite is not named."""
        return {name: owner for name, (owner, *_) in self._origins.items() if owner}

    def edition(self, name: str) -> str:
        """Return which edition of a unit this is: "" for the suite's own, the SHA-256 of the file that registered it.

        A class that says its own ``version`` is told apart by that: its file may be edited without another result.
        Where there is no file, as in a notebook, the digest is of the class itself.
        """
        owner = self._origins[name][0] if name in self._origins else ""
        if not owner:
            return ""
        unit = self._units[name]
        if any("version" in vars(cls) for cls in getattr(unit, "__mro__", ()) if not _is_ours(cls)):
            return ""
        plugin = _loaded.get(owner)
        return plugin.sha256 if plugin is not None else _digest(owner) or _source_digest(unit)

    def name_of(self, unit: object) -> str:
        """Return the name of a unit of a plug-in; "" for the suite's own."""
        return next((name for name in self.owners() if self._units[name] is unit), "")

    def forget(self, owner: str) -> None:
        """Remove every unit that ``owner`` registered."""
        for name in [name for name, who in self.owners().items() if who == owner]:
            del self._units[name], self._origins[name]

    @cached_property
    def _sources(self) -> dict[str, str]:
        """Return the text of each module of the package."""
        package = importlib.import_module(self._package)
        names = [module.name for module in pkgutil.walk_packages(package.__path__, f"{self._package}.")]
        specs = {name: importlib.util.find_spec(name) for name in names}
        return {
            name: Path(spec.origin).read_text(encoding="utf-8") for name, spec in specs.items() if spec and spec.origin
        }

    def _import_all(self) -> None:
        if self._complete:
            return
        self._complete = True  # a unit that is being imported may look up the names of the others
        try:
            for module in self._sources:
                importlib.import_module(module)
            if not _loading:
                load_plugins()
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
        load: a function of NAME, and of the model's name in tables, that returns the model.
        stages: what the stages of its models are called, in words.
        hub: a function of NAME that returns which weights must be fetched from the hub; None where none must.
        needs: a function of NAME that returns what else must be fetched: weights that lie elsewhere.
        random: a function like ``load``, with a seed as third argument, that returns the architecture with random
            weights without reading the model's own; None where those are loaded and replaced.
    """

    load: Load
    stages: str = ""
    hub: Callable[[str], HubWeights | None] = lambda name: None
    needs: Callable[[str], tuple[Need, ...]] = lambda name: ()
    random: Callable[[str, str, int], Model] | None = None


METHODS: Registry[type[Method]] = Registry("method", "invsuite.methods")
METRICS: Registry[type[Metric]] = Registry("metric", "invsuite.metrics")
ADAPTERS: Registry[Adapter] = Registry("model adapter", "invsuite.models.adapters")
SOURCES: Registry[type[Source]] = Registry("kind of data", "invsuite.data")
REGISTRIES: tuple[Registry[Any], ...] = (METHODS, METRICS, ADAPTERS, SOURCES)


class Register:
    """The decorators by which units register themselves.

    Examples:
        >>> import invsuite
        >>> @invsuite.register.metric
        ... class Brightness(invsuite.Metric):
        ...     name = "brightness"
        ...     label = "Brightness"
        ...     direction = "zero"
        ...
        ...     def compute(self, scoring):
        ...         means = [stack.mean((1, 2, 3)) for stack in (scoring.reconstructions, scoring.images)]
        ...         return invsuite.Values((means[0] - means[1]).tolist())
        >>> any(row["metric"] == "brightness" for row in invsuite.list_metrics())
        True
    """

    def method(self, cls: AnyClass) -> AnyClass:
        """Register a `Method` under its ``name``."""
        METHODS.add(_named(cls, "method"), cls, cls)
        return cls

    def metric(self, cls: AnyClass) -> AnyClass:
        """Register a `Metric` under its ``name``."""
        METRICS.add(_named(cls, "metric"), cls, cls)
        return cls

    def model(self, adapter: str, **facts: Any) -> Callable[[Load], Load]:
        """Register ``load(source, name)`` for models ``adapter:source``; its docstring's first line is listed.

        Args:
            adapter: the word in front of the colon.
            facts: the other attributes of the `Adapter`.
        """

        def decorate(load: Load) -> Load:
            if not callable(load):
                raise UsageError(f"{_prefix()}the loader of model adapter '{adapter}' cannot be called")
            ADAPTERS.add(adapter, Adapter(load, **facts), load)
            return load

        return decorate

    def dataset(self, kind: str) -> Callable[[AnyClass], AnyClass]:
        """Register a data source, a dataclass whose fields are the keys of ``[data.*]`` with this ``kind``."""

        def decorate(cls: AnyClass) -> AnyClass:
            bases = [base.__name__ for base in cls.__mro__[1:]]
            if "Source" not in bases or not hasattr(cls, "__dataclass_fields__"):
                raise UsageError(f"{_prefix()}dataset '{kind}' is no dataclass that is derived from Source")
            SOURCES.add(kind, cls, cls)
            return cls

        return decorate


register = Register()


#: what names of rows and units are made of: they become parts of file names, patterns and lists
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
NAME_WORDS = "letters a to z, digits and . _ + - that begin with a letter or a digit, at most 100"
DIRECTIONS = ("higher", "lower", "one", "zero")
GROUPS = ("Fidelity", "Spatial correspondence", "Colour", "Consistency")
_TEXT: tuple[Callable[[Any], bool], str] = (lambda value: isinstance(value, str), "a text")
#: what a class of each kind must say of itself: tables and records rest on it
FACTS: dict[str, dict[str, tuple[Callable[[Any], bool], str]]] = {
    "method": {"family": _TEXT, "source": _TEXT},
    "metric": {
        "label": _TEXT,
        "unit": _TEXT,
        "direction": (lambda value: value in DIRECTIONS, " or ".join(DIRECTIONS)),
        "group": (lambda value: value in GROUPS, " or ".join(GROUPS)),
        "digits": (lambda value: type(value) is int and 0 <= value <= 20, "a whole number from 0 to 20"),
        "version": (lambda value: type(value) is int, "a whole number"),
        "tolerance": (lambda value: isinstance(value, int | float) and value >= 0, "a number, 0 or more"),
    },
}


def _named(cls: Any, kind: str) -> str:
    """Return the ``name`` that a class declares.

    Raises:
        UsageError: if it has none, is not derived from the base class of its ``kind``, or lacks what it must say.
    """
    bases = [base.__name__ for base in getattr(cls, "__mro__", ())[1:]]
    base = kind.capitalize()
    if base not in bases or not isinstance(getattr(cls, "name", None), str):
        raise UsageError(f"{_prefix()}{cls!r} is no {kind}: derive it from {base}, give it a name")
    if not NAME.fullmatch(cls.name):
        raise UsageError(f"{_prefix()}the name of {kind} {cls.name!r} is not {NAME_WORDS}")
    lacking = sorted(getattr(cls, "__abstractmethods__", ()))
    if lacking:
        raise UsageError(f"{_prefix()}{kind} '{cls.name}' lacks {', '.join(f'{name}()' for name in lacking)}")
    for fact, (accepts, words) in FACTS[kind].items():
        value = getattr(cls, fact, None)
        if not accepts(value):
            raise UsageError(f"{_prefix()}'{fact}' of {kind} '{cls.name}' is {value!r}, expected {words}")
    return str(cls.name)


@dataclass(frozen=True)
class Plugin:
    """Where units come from that are not the suite's own.

    Attributes:
        name: path of the file, name of the entry point, or the module that used `register` by itself.
        sha256: of the file; "" where there is none, as in a notebook.
        path: the file given with ``--plugin``, None for the others.
    """

    name: str
    sha256: str
    path: Path | None = None


_loading: list[str] = []  # the plug-in being imported, if any
_loaded: dict[str, Plugin] = {}


def loaded_plugins() -> tuple[Plugin, ...]:
    """Return the plug-ins of this process, and the user's modules that registered units."""
    owners = [owner for registry in REGISTRIES for owner in registry.owners().values()]
    return tuple(_loaded.get(name) or Plugin(name, _digest(name)) for name in dict.fromkeys([*_loaded, *owners]))


def plugin_files() -> tuple[Path, ...]:
    """Return the plug-in files that were loaded: what another process must load too."""
    return tuple(plugin.path for plugin in _loaded.values() if plugin.path is not None)


def forget_plugins() -> None:
    """Unload every plug-in: the registries hold the suite's own units alone."""
    for plugin in loaded_plugins():
        _forget(plugin.name)
    _loaded.clear()


def _forget(owner: str) -> None:
    for registry in REGISTRIES:
        registry.forget(owner)


def _digest(module: str) -> str:
    """Return the SHA-256 of a module's file; "" if it has none."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""


def _source_digest(unit: Any) -> str:
    """Return the SHA-256 of the text of a loader or of a class's functions and values; "" where nobody kept it."""
    load = getattr(unit, "load", None)
    parts = {"load": load} if load is not None else dict(vars(unit))
    texts = []
    for name, part in parts.items():
        if inspect.isfunction(part):
            with contextlib.suppress(OSError, TypeError):  # what a decorator made has no text
                texts.append(inspect.getsource(part))
        elif isinstance(part, str | int | float | tuple) and not name.startswith("__"):
            texts.append(f"{name} = {part!r}")
    return hashlib.sha256("\n".join(texts).encode()).hexdigest() if texts else ""


def _is_ours(cls: type) -> bool:
    """Tell whether a class is the suite's, or Python's."""
    return cls.__module__.partition(".")[0] in ("invsuite", "builtins", "abc", "typing")


def load_plugins(paths: Sequence[Path] = ()) -> None:
    """Load every installed entry point and the files ``paths``, each once per process.

    Raises:
        UsageError: for a file that is not there, breaks, registers nothing, or takes a name that is taken; nothing of
            that plug-in stays registered.
    """
    for point in entry_points(group=GROUP):
        _load(f"{point.name} ({point.value})", point)
    for path in paths:
        file = path.expanduser().resolve()
        if not file.is_file():
            raise UsageError(f"plug-in file '{path}' does not exist")
        _load(str(file), file)


def _load(name: str, source: EntryPoint | Path) -> None:
    """Import one plug-in, unless it was imported before, and take everything back if that fails."""
    if name in _loaded:
        return
    _loading.append(name)
    try:
        module = _import_file(source) if isinstance(source, Path) else _import_point(source)
        if not any(name in registry.owners().values() for registry in REGISTRIES):
            raise UsageError(f"plug-in '{name}' registers nothing: decorate its units with invsuite.register")
    except InvsuiteError:
        _forget(name)
        raise
    except (Exception, SystemExit) as error:
        _forget(name)
        raise UsageError(f"plug-in '{name}' cannot be loaded: {one_line(error)}") from error
    finally:
        _loading.pop()
    _loaded[name] = Plugin(name, _digest(module), source if isinstance(source, Path) else None)


def _import_file(path: Path) -> str:
    """Import a plug-in's file and return the name of its module."""
    name = f"invsuite_plugin_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"plug-in file '{path}' is no Python file: it must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return name


def _import_point(point: EntryPoint) -> str:
    """Import an installed plug-in and return the name of its module."""
    point.load()
    return point.module


def _prefix() -> str:
    """Return the beginning of a message that concerns the plug-in being imported, if any."""
    return f"plug-in '{_loading[-1]}': " if _loading else ""
