"""The verbs of the front door that work on whole suites. Nothing here prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypedDict, Unpack

import torch

from invsuite.apply.beside import keep_inverses, prune_inverses
from invsuite.benchmark.cells import Cell, LoadedModel, Plan, Selection, UnavailableModel, make_plan
from invsuite.benchmark.estimate import PlanCost, cell_passes, plan_cost
from invsuite.benchmark.executors import make_executor
from invsuite.benchmark.executors.base import Executor, Job, Placement
from invsuite.benchmark.runner import Reporter, Run, RunOptions, Silent
from invsuite.benchmark.stage_relations import relate_models
from invsuite.benchmark.suite import Suite, load_suite
from invsuite.errors import unknown_name
from invsuite.report.results import OUT, Results, store_of
from invsuite.results.published import write_published


class RunArguments(TypedDict, total=False):
    """What `run` and `plan` take beside the suite, all by keyword.

    Attributes:
        models: names or shell patterns of the suite's models, or sources of others; None takes all of the suite.
        stages: names or patterns of stages.
        methods: names or patterns of methods, or registered methods that the suite does not name.
        metrics: names or patterns of measures, or registered measures that the suite does not name.
        seeds: of trained methods.
        random_weights: whether models get random weights.
        out: folder for the records; ``results`` by default.
        placement: where cells are computed; by default in this process, on the GPU if there is one.
        options: which cells are computed again, and limits.
        reporter: is told what happens; by default nobody is.

    Examples:
        >>> import invsuite
        >>> part: invsuite.RunArguments = {"models": ["vit"], "stages": ["embed"], "methods": ["mean"]}
        >>> len(invsuite.plan("quick", **part).plan.cells)
        1
    """

    models: Sequence[str] | None
    stages: Sequence[str] | None
    methods: Sequence[str] | None
    metrics: Sequence[str] | None
    seeds: Sequence[int] | None
    random_weights: bool
    out: Path | str
    placement: Placement
    options: RunOptions
    reporter: Reporter


def run(suite: str | Suite, **arguments: Unpack[RunArguments]) -> Results:
    """Compute what is missing of a suite, and return its results. Records are written as they are finished.

    Inverses are kept in ``OUT/inverses/SUITE/``, one folder per fit, for `invsuite.load_inverse`.

    Args:
        suite: the name of a bundled suite, a TOML file, or a loaded suite.
        **arguments: ``models``, ``stages``, ``methods``, ``metrics`` and ``seeds`` choose a part of the suite, ``out``
            is the folder for the records; `RunArguments` has all.

    Raises:
        UsageError: for an unknown suite or argument, or a name or pattern that matches nothing.
        InvsuiteError: for what ends the whole run; finished cells are kept.

    Examples:
        >>> import invsuite
        >>> results = invsuite.run("quick", models=["vit"], stages=["embed"], methods=["exact"], metrics=["psnr"])
        >>> results[0].cell.row, results[0].measurements["psnr"].n
        ('vit/embed/exact', 24)
    """
    begun, selection, executor = _prepare(suite, arguments)
    matrix, store, note = begun.plan, begun.store, begun.report.note
    write_published(store.folder, matrix.suite.published)
    job = Job(matrix.suite, selection, store.folder.resolve(), begun.options)
    outcome = executor.run(matrix, job, begun.report)
    relations = relate_models(matrix, store, executor.device, note) if matrix.suite.interlayer else []
    records = [record for cell in matrix.cells if (record := store.read(cell.id)) is not None]
    out = arguments.get("out", OUT)
    keep_inverses(matrix, records, store, Path(out), begun.options.keep_bytes, begun.report)
    return Results(records, relations, {str(out): store}, outcome=outcome, published=matrix.suite.published)


@dataclass(frozen=True)
class Outlook:
    """What a run would do, and what it would cost.

    Attributes:
        plan: the matrix.
        states: by a cell's id: ``to run``, ``to measure: ...``, ``finished``, or ``left as it is``.
        passes: by a cell's id: its image passes, roughly.
        cost: of the cells to run, from timed pieces of their work.
        device: the device for which it is estimated.

    Examples:
        >>> import invsuite
        >>> outlook = invsuite.plan("quick", models=["vit"], stages=["embed"], methods=["mean"], out="new")
        >>> list(outlook.states.values()), outlook.cost.unknown
        (['to run'], ())
    """

    plan: Plan
    states: Mapping[str, str]
    passes: Mapping[str, int]
    cost: PlanCost
    device: torch.device


def plan(suite: str | Suite, **arguments: Unpack[RunArguments]) -> Outlook:
    """Return what `run` would do with the same arguments; nothing is fitted.

    Raises:
        UsageError: for an unknown suite or argument, or a name or pattern that matches nothing.

    Examples:
        >>> import invsuite
        >>> outlook = invsuite.plan("quick", models=["vit"], stages=["embed"], methods=["mean", "modular"])
        >>> [cell.key for cell in outlook.plan.cells]
        ['vit/embed/mean/s0', 'vit/embed/modular/s0']
    """
    begun, *_ = _prepare(suite, arguments)
    matrix = begun.plan
    states = {cell.id: _state(begun, entry, cell) for entry in matrix.models for cell in entry.cells}
    passes = {cell.id: round(cell_passes(matrix, cell)) for cell in matrix.cells}
    to_run = {cell for cell, state in states.items() if state == "to run"}
    return Outlook(matrix, states, passes, plan_cost(matrix, to_run, begun.device, begun.store.folder), begun.device)


def _prepare(suite: str | Suite, arguments: RunArguments) -> tuple[Run, Selection, Executor]:
    """Return a run of which nothing is computed yet, the part of the suite that it takes, and who computes it."""
    for name in arguments:
        if name not in RunArguments.__annotations__:
            raise unknown_name("argument", name, RunArguments.__annotations__)
    chosen = {spec.name: arguments[spec.name] for spec in fields(Selection) if spec.name in arguments}  # type: ignore[literal-required]
    selection = Selection(**chosen)
    executor = make_executor(arguments.get("placement", Placement()))
    reporter, options = arguments.get("reporter", Silent()), arguments.get("options", RunOptions())
    matrix = make_plan(suite if isinstance(suite, Suite) else load_suite(suite), selection, reporter.note)
    store = store_of(matrix.suite.name, arguments.get("out", OUT))
    return Run(matrix, store, executor.device, reporter, options, {}), selection, executor


def prune(suite: str, out: Path | str = OUT) -> int:
    """Delete the kept reconstructions, inverters and inverses of a suite, and return the bytes that were freed."""
    return prune_inverses(Path(out), suite) + store_of(suite, out).kept().prune()


def _state(begun: Run, entry: LoadedModel | UnavailableModel, cell: Cell) -> str:
    todo = begun.todo(entry, cell)
    if todo is None:
        return "finished" if begun.store.finished(cell.id) else "left as it is"
    return "to run" if todo.inversion else f"to measure: {', '.join(metric.name for metric in todo.lacking)}"
