"""Pages of the site that are written by the code: facts of every method and measure, the command line, the results.

mkdocs calls the functions whose names begin with ``on_``. Methods and measures are read from the source files, so that
building the site needs no torch. A page of ``docs/`` places a unit with a comment of its own line::

    <!-- method ridge -->
    <!-- metric psnr -->

and the build fails if a registered unit has no such place, or a place names no unit.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from textwrap import dedent
from typing import Any

import griffe
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
#: files of the repository that are pages or pictures of the site
SHARED = [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "results").glob("*.*")]
BETTER = {"higher": "higher", "lower": "lower", "one": "closer to 1", "zero": "closer to 0"}
#: of a method's docstring and of a measure's, beside the formula
METHOD_SECTIONS = ("Cost", "Use", "Pitfalls", "Source")
SECTIONS = ("Range", "Ceiling", "Floor", "Undefined", "Pitfalls", "Source")
PLACE = re.compile(r"^<!-- (method|metric) ([\w-]+) -->$", re.M)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files of the repository that the site shows."""
    for path in SHARED:
        files.append(File.generated(config, str(path.relative_to(ROOT)), abs_src_path=str(path)))
    check_places("\n".join(file.content_string for file in files.documentation_pages()))
    return files


def check_places(text: str) -> None:
    """Raise `PluginError` unless ``text`` has exactly one place for every method and every measure."""
    places = sorted(PLACE.findall(text))
    units = sorted((kind, name) for kind in ("method", "metric") for name in registered(kind))
    if places != units:
        wrong = sorted(set(places) ^ set(units)) or places
        raise PluginError(f"documented methods and measures are not the registered ones: {wrong}")


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill the places of files, of units and of the command line; links into ``docs/`` are links within the site."""
    markdown = markdown.replace("](docs/", "](")
    markdown = re.sub(r"^<!-- file (\S+) -->$", lambda place: listing(place[1]), markdown, flags=re.M)
    markdown = PLACE.sub(lambda place: describe(*place.groups()), markdown)
    written = {"commands": commands, "names": public_names, "recipe": recipe}
    return re.sub(r"^<!-- (commands|names|recipe) -->$", lambda place: written[place[1]](), markdown, flags=re.M)


def listing(path: str) -> str:
    """Return a Python file of the repository as a block of code."""
    return f"```python\n{(ROOT / path).read_text().rstrip()}\n```"


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn formulas into MathML, which browsers show without a script."""
    return re.sub(
        r'<(?:span|div) class="arithmatex">(.*?)</(?:span|div)>', lambda match: formula(match[1]), html, flags=re.S
    )


def formula(text: str) -> str:
    r"""Return LaTeX between ``\(`` and ``\)`` or ``\[`` and ``\]`` as MathML.

    Raises:
        PluginError: for a command of LaTeX that the converter does not know.
    """
    text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&").strip()
    latex = text[2:-2].replace(r"\arg\min", r"\mathrm{argmin}").replace(r"\arg\max", r"\mathrm{argmax}")
    shown = convert(latex, display="block" if text.startswith(r"\[") else "inline")
    if "\\" in shown:
        raise PluginError(f"formula cannot be shown: {latex}")
    return shown


@cache
def package() -> griffe.Module:
    """Return the sources of the package, parsed."""
    return griffe.load("invsuite", search_paths=[ROOT])  # type: ignore[return-value]


def classes(module: griffe.Module) -> Iterator[griffe.Class]:
    """Yield every class of ``module`` and of the modules in it."""
    for member in module.members.values():
        if member.is_alias:
            continue
        if member.is_module:
            yield from classes(member)  # type: ignore[arg-type]
        elif member.is_class:
            yield member  # type: ignore[misc]


@cache
def registered(kind: str) -> dict[str, griffe.Class]:
    """Return the classes that register themselves as a ``kind`` ("method" or "metric"), by their ``name``."""
    room = package()[{"method": "methods", "metric": "metrics"}[kind]]
    units = [c for c in classes(room) if any(str(d.value) == f"register.{kind}" for d in c.decorators)]
    return {fact(unit, "name"): unit for unit in units}


def fact(unit: griffe.Class, name: str) -> Any:
    """Return the value of a class attribute, the class's own or inherited."""
    for cls in (unit, *unit.mro()):
        if name in cls.members and cls.members[name].value is not None:
            return literal(cls.members[name].value)
    raise PluginError(f"{unit.path} does not say its '{name}'")


def literal(value: griffe.Expr | str) -> Any:
    """Return what an expression of the sources is worth; the expression itself where it is no plain value."""
    if isinstance(value, griffe.ExprName):
        try:
            target = package()[value.canonical_path.removeprefix("invsuite.")]
        except KeyError:
            return str(value)
        return literal(target.value) if target.is_attribute and target.value is not None else str(value)
    field = re.match(r"field\(default(?:_factory)?=([^,)]+)", str(value))
    try:
        return ast.literal_eval(field[1] if field else str(value))
    except (ValueError, SyntaxError):
        return {"dict": "{}", "list": "[]"}.get(field[1], f"{field[1]}()") if field else str(value)


def describe(kind: str, name: str) -> str:
    """Return a section of the page about a unit: its facts and its docstring, and a method's parameters."""
    unit = registered(kind)[name]
    return "\n".join((describe_method if kind == "method" else describe_metric)(unit))


def describe_metric(unit: griffe.Class) -> list[str]:
    """Return a measure's heading, its description, a row of its facts, its formula, and what its docstring adds."""
    said = sections(unit)
    size = fact(unit, "unit")
    tolerance = f"{fact(unit, 'tolerance'):g} {size}".strip()
    row = [f"`{fact(unit, 'name')}`", BETTER[fact(unit, "direction")], size or "-", fact(unit, "group"), tolerance]
    return [
        f"### {fact(unit, 'label')} {{ #{fact(unit, 'name')} }}",
        *("", said[""], ""),
        *table(["name", "better when", "unit", "table", "tolerance of `check`"], [row]),
        *("", said["Formula"], ""),
        *(f"- **{title}**: {paragraph(said[title])}" for title in SECTIONS if title in said),
    ]


def describe_method(unit: griffe.Class) -> list[str]:
    """Return a method's heading, description and formula, what its docstring adds, and a table of its parameters."""
    said = sections(unit)
    return [
        f"### `{fact(unit, 'name')}` {{ #{fact(unit, 'name')} }}",
        *("", said[""], "", said.get("Formula", ""), ""),
        *(f"- **{title}**: {paragraph(said[title])}" for title in METHOD_SECTIONS if title in said),
        f"- **Family**: {fact(unit, 'family')}.",
        *("", *parameters(unit), ""),
    ]


def recipe() -> str:
    """Return the settings of training, which methods with networks share."""
    return "\n".join(parameters(next(c for c in classes(package()["methods"]) if c.name == "Recipe")))


def parameters(unit: griffe.Class) -> list[str]:
    """Return the lines of a table of a dataclass's fields, those of its base classes first; none if it has none."""
    defaults: dict[str, Any] = {}
    for cls in (*reversed(unit.mro()), unit):
        for name, member in cls.members.items():
            if "instance-attribute" in member.labels and member.annotation is not None and member.value is not None:
                defaults[name] = literal(member.value)
    entries = re.findall(r"^([\w, ]+): (.*(?:\n .*)*)", sections(unit).get("Args", ""), re.M)
    meanings = {name: paragraph(text) for names, text in entries for name in names.split(", ")}
    rows = [[f"`{name}`", f"`{json.dumps(default)}`", meanings.get(name, "")] for name, default in defaults.items()]
    return table(["parameter", "default", "meaning"], rows) if rows else []


def sections(unit: griffe.Class) -> dict[str, str]:
    """Return the sections of a class's docstring by their title, "" for what stands before the first.

    A section that the class lacks is its base class's; the arguments of all are joined.
    """
    merged: dict[str, str] = {}
    for cls in (*reversed(unit.mro()), unit):
        text = by_their_names(cls.docstring.value) if cls.docstring else ""
        own = dict(re.findall(r"^([A-Z][a-z]+):\n((?: {4}.*\n?|\n)+)", text, re.M))
        own = {title: dedent(body).strip() for title, body in own.items()}
        arguments = own.get("Args", own.get("Attributes", ""))
        merged |= own | {"": re.split(r"^[A-Z][a-z]+:$", text, maxsplit=1, flags=re.M)[0].strip()}
        merged["Args"] = "\n".join([merged.get("Args", ""), arguments])
    return merged


def by_their_names(text: str) -> str:
    """Return a docstring as Markdown, with the classes of methods and measures called by their names."""
    names = {unit.name: name for kind in ("method", "metric") for name, unit in registered(kind).items()}
    return re.sub(r"`([A-Z]\w+)`", lambda word: f"`{names.get(word[1], word[1])}`", text.replace("``", "`"))


def paragraph(text: str) -> str:
    """Return a text as one line."""
    return " ".join(text.split())


def public_names() -> str:
    """Return a place for every public name that mkdocstrings fills: functions, classes, then errors."""
    front_door = (ROOT / "invsuite" / "__init__.pyi").read_text()
    chapters: dict[str, list[str]] = {"Functions": [], "Classes": [], "Errors": []}
    for room, name in re.findall(r"^from \.(\S+) import (\w+) as", front_door, re.M):
        function = package()[f"{room}.{name}"].is_function
        chapters["Functions" if function else "Errors" if room == "errors" else "Classes"].append(f"{room}.{name}")
    parts = [f"## {chapter}\n\n" + "\n\n".join(f"::: invsuite.{p}" for p in ps) for chapter, ps in chapters.items()]
    return "\n\n".join(parts).replace("registry.register", "registry.Register")  # its methods are what matters


def table(heads: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = (heads, ["---"] * len(heads), *rows)
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def commands() -> str:
    """Return a section for every command, with its arguments and options, from the application itself."""
    import typer

    from invsuite.cli import app

    lines: list[str] = []
    for name, command in sorted(typer.main.get_command(app).commands.items()):  # type: ignore[attr-defined]
        lines += [f"## `invsuite {name}`", "", paragraph(command.help or ""), ""]
        rows = [option(param) for param in command.params if param.name != "help"]
        lines += [*table(["option", "default", "meaning"], rows), ""]
    return "\n".join(lines)


def option(param: Any) -> list[str]:
    """Return an option's flags (or an argument's name), default and meaning."""
    flags = param.opts if param.param_type_name == "option" else [param.name.upper()]
    default = param.default
    stated = isinstance(default, str | int | float | Path) and default not in (False, "")
    return [", ".join(f"`{flag}`" for flag in flags), f"`{default}`" if stated else "", paragraph(param.help or "")]
