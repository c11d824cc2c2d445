"""What the commands do: wire suite, plan, runner, store and report together."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tabulate import tabulate

from invsuite._system.files import write_atomically
from invsuite.benchmark.cells import Cell, LoadedModel, Plan, Selection, UnavailableModel, choose, make_plan
from invsuite.benchmark.estimate import cell_passes, plan_cost
from invsuite.benchmark.executors import make_executor
from invsuite.benchmark.executors.base import Job, Placement
from invsuite.benchmark.fetch import fetch, needs
from invsuite.benchmark.progress import ConsoleReporter
from invsuite.benchmark.runner import Redo, Run, RunOptions
from invsuite.benchmark.stage_relations import relate_models
from invsuite.benchmark.suite import Suite, load_suite
from invsuite.benchmark.suite_file import SuiteFile, read_suite
from invsuite.errors import Unavailable, UsageError, unknown_name
from invsuite.report.efficiency import efficiency_markdown
from invsuite.report.markdown import terminal
from invsuite.report.paper_claims import findings_markdown
from invsuite.report.results import Results
from invsuite.report.study import analyse, make_study, read_answers, read_key, study_table
from invsuite.results.baseline import Judgement, load_baseline, pin, summary, summary_markdown
from invsuite.results.compare import Comparison, compare_rows, comparison_table
from invsuite.results.kept import LIMIT
from invsuite.results.record import Record, RelationRecord, to_json
from invsuite.results.store import Store


@dataclass(frozen=True)
class BenchOptions:
    """The options of ``invsuite bench``; None selects everything the suite has."""

    suite: str
    models: tuple[str, ...] | None = None
    stages: tuple[str, ...] | None = None
    methods: tuple[str, ...] | None = None
    metrics: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None
    random_weights: bool = False
    placement: Placement = field(default_factory=Placement)
    out: Path = Path("results")
    dry_run: bool = False
    redo: Redo = "unfinished"
    cell_seconds: float | None = None
    keep_gib: float = LIMIT / 2**30


@dataclass(frozen=True)
class BenchResult:
    """What a command prints: text for people, a tree for ``--json``; and its ``exit_code``: of the error that kept a
    model from running, else 1 if any cell failed."""

    text: str
    tree: dict[str, Any]
    exit_code: int = 0


def store_of(suite: Suite | SuiteFile, out: Path) -> Store:
    """Where a suite's records are."""
    return Store(out / "records" / suite.name)


def run_bench(options: BenchOptions) -> BenchResult:
    """Run what is missing, render, and say what was done."""
    suite = load_suite(options.suite)
    executor = make_executor(options.placement)
    how = RunOptions(options.redo, options.cell_seconds, round(options.keep_gib * 2**30))
    store = store_of(suite, options.out)
    selection = Selection(
        options.models, options.stages, options.methods, options.metrics, options.seeds, options.random_weights
    )
    with ConsoleReporter() as reporter:
        plan = make_plan(suite, selection, reporter.note)
        if options.dry_run:
            return _describe(Run(plan, store, executor.device, reporter, how, {}))
        outcome = executor.run(plan, Job(plan.suite, selection, store.folder.resolve(), how), reporter)
        relations = relate_models(plan, store, executor.device, reporter.note) if suite.interlayer else []
    results = Results(_records(plan, store), relations, {str(options.out): store})
    files = results.report(options.out)
    every: list[Record | RelationRecord] = [*results.records, *relations]
    text = "\n".join(
        [
            f"{results.title}\n",
            terminal(results),
            "",
            "* cannot be told apart from the best of its stage. Intervals, n and how to read each column: "
            + str(files[0]),
            f"{outcome.computed} cells computed, {outcome.reused} reused"
            + (f" (measures added to {outcome.added})" if outcome.added else "")
            + "; "
            + ", ".join(f"{n} {state}" for state, n in results.states.items()),
            *_problems(every),
        ]
    )
    tree = {"suite": suite.name, "computed": outcome.computed, "reused": outcome.reused}
    tree["cells"] = [to_json(record) for record in results]
    if relations:
        tree["interlayer"] = [to_json(record) for record in relations]
    return BenchResult(text, tree, _exit_code(plan, every) or int(outcome.failed > 0))


def _problems(records: Sequence[Record | RelationRecord]) -> list[str]:
    """A line for every reason why cells have no numbers."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for record in records:
        if not record.ok:
            reasons.setdefault((record.state, record.reason), []).append(record.cell.id)
        elif isinstance(record, Record):
            for measurement in record.measurements.values():
                if measurement.status == "failed":
                    reasons.setdefault(("failed", measurement.reason), []).append(record.cell.id)
    return [
        f"{state}: {cells[0]}{f' and {len(cells) - 1} more' if len(cells) > 1 else ''}: {reason}"
        for (state, reason), cells in reasons.items()
    ]


def _exit_code(plan: Plan, records: Sequence[Record | RelationRecord]) -> int:
    refused = [m.error for m in plan.models if isinstance(m, UnavailableModel) and not isinstance(m.error, Unavailable)]
    if refused:
        return refused[0].exit_code
    broken = (m.status == "failed" for r in records if isinstance(r, Record) for m in r.measurements.values())
    return int(any(r.status == "failed" for r in records) or any(broken))


def _describe(run: Run) -> BenchResult:
    """Return the matrix and its cost, for ``--dry-run``."""
    plan, device = run.plan, run.device
    rows = [
        {"cell": cell.id, "state": _state(run, entry, cell), "image passes": round(cell_passes(plan, cell))}
        for entry in plan.models
        for cell in entry.cells
    ]
    to_run = [row for row in rows if row["state"] == "to run"]
    passes = sum(int(str(row["image passes"])) for row in to_run)
    cost = plan_cost(plan, {str(row["cell"]) for row in to_run}, device)
    lines = [
        f"{len(rows)} cells, {len(to_run)} to run, about {passes:,} passes of an image through a model",
        f"about {cost.hours:.2g} hours on this {device.type}, and {cost.memory / 2**30:.2g} GiB of its memory for a "
        f"batch of {plan.suite.budget.batch}: an estimate from timed pieces of its work",
    ]
    if cost.unknown:
        lines.append(f"not in the estimate, for their weights or data are not here: {', '.join(cost.unknown)}")
    tree = {"cells": rows, "image_passes": passes, "estimate": asdict(cost) | {"device": device.type}}
    return BenchResult("\n".join([tabulate(rows, headers="keys"), "", *lines]), tree)


def _state(run: Run, entry: LoadedModel | UnavailableModel, cell: Cell) -> str:
    """Return what a run would do with a cell."""
    todo = run.todo(entry, cell)
    if todo is None:
        return "finished" if run.store.finished(cell.id) else "left as it is"
    return "to run" if todo.inversion else f"to measure: {', '.join(metric.name for metric in todo.lacking)}"


def prune(suite_name: str, out: Path) -> int:
    """Delete the reconstructions and inverters that are kept beside a suite's records; return the bytes freed.

    No number is lost: a measure that is added later inverts those cells again.
    """
    return Store(out / "records" / read_suite(suite_name).name).kept().prune()


def run_fetch(suite_name: str, yes: bool, log: Callable[[str], None]) -> BenchResult:
    """What a suite needs, with sizes; with ``yes`` it is brought, and digests are told."""
    items = needs(load_suite(suite_name))
    rows = [
        {
            "what": item.what,
            "state": item.state,
            "size": "" if item.size == 0 else "unknown" if item.size is None else f"{item.size / 2**20:,.0f} MiB",
            "where": item.note,
        }
        for item in items
    ]
    waiting = [item for item in items if item.bring is not None]
    known = sum(item.size or 0 for item in waiting)
    unknown = sum(item.size is None for item in waiting)
    total = f"{len(waiting)} to fetch, {known / 2**30:.2f} GiB" + (f" and {unknown} of unknown size" if unknown else "")
    brought: list[tuple[str, str]] = []
    if yes:
        log(total)
        brought = fetch(waiting, log)
        ending = [f"{what}: {digest}" for what, digest in brought] or ["nothing to fetch"]
    else:
        ending = [total, f"go on with: invsuite fetch {suite_name} --yes"] if waiting else ["nothing to fetch"]
    tree = {"items": rows, "bytes": known, "unknown_sizes": unknown, "fetched": dict(brought)}
    return BenchResult("\n".join([tabulate(rows, headers="keys", maxcolwidths=60), "", *ending]), tree)


def _records(plan: Plan, store: Store) -> list[Record]:
    """Records of the plan's cells, in the plan's order."""
    return [record for cell in plan.cells if (record := store.read(cell.id)) is not None]


def load_results(folder: Path | str = "results", suite: str = "") -> Results:
    """Return what a run of a suite left in a folder.

    Args:
        folder: what the run was given as ``out``.
        suite: the suite's name; needed where the folder has several.

    Raises:
        UsageError: if there are no records, or of several suites and none is named.

    Examples:
        >>> load_results("results", "quick").to_frame()  # doctest: +SKIP
    """
    folders = Path(folder) / "records"
    names = sorted(path.name for path in folders.iterdir() if path.is_dir()) if folders.is_dir() else []
    if not suite and len(names) > 1:
        raise UsageError(f"'{folder}' has records of several suites, name one: {', '.join(names)}")
    suite = suite or next(iter(names), "quick")
    results = Results.load(folders / suite, str(folder))
    if not results.records:
        raise UsageError(f"no records of suite '{suite}' in '{folder}'; run: invsuite bench --suite {suite}")
    return results


def rerender(suite_name: str, out: Path) -> list[Path]:
    """Render the report of a suite from its records; returns the files."""
    return load_results(out, read_suite(suite_name).name).report(out)


def merge_folders(suite_name: str, folders: Sequence[Path], out: Path) -> tuple[list[Path], Sequence[str]]:
    """Render one leaderboard from the records of a suite in several folders; returns the files and what the reader
    must know of the merged runs."""
    suite = read_suite(suite_name)
    first, *others = (load_results(folder, suite.name) for folder in folders)
    merged = first.merge(*others)
    return merged.report(out), merged.notes


def write_efficiency(suite_names: Sequence[str], out: Path) -> Path:
    """Render ``efficiency.md`` from the records of suites; returns the file."""
    path = out / "efficiency.md"
    page = efficiency_markdown([load_results(out, read_suite(name).name) for name in suite_names])
    write_atomically(path, page.encode())
    return path


def write_findings(suite_names: Sequence[str], out: Path, method: str) -> Path:
    """Render ``findings.md`` from the records of suites; returns the file."""
    suites = [read_suite(name) for name in suite_names]
    for suite in suites:
        if method not in suite.methods:
            raise unknown_name(f"method of suite '{suite.name}'", method, suite.methods)
    path = out / "findings.md"
    page = findings_markdown([load_results(out, suite.name) for suite in suites], method)
    write_atomically(path, page.encode())
    return path


def compare_two(
    suite_name: str, out: Path, rows: tuple[str, str], measures: Sequence[str] | None
) -> tuple[list[Comparison], str]:
    """The paired differences of two rows of a suite, and their table."""
    comparisons = compare_rows(load_results(out, read_suite(suite_name).name), *rows, measures)
    return comparisons, comparison_table(comparisons)


def write_study(
    suite_name: str, out: Path, methods: Sequence[str] | None, questions: int, seed: int
) -> tuple[Path, Path]:
    """Write the page of a blind study of a suite's pictures, and the key that tells its methods; returns both files."""
    results = load_results(out, read_suite(suite_name).name)
    known = list(dict.fromkeys(record.cell.method for record in results.done))
    key, page = make_study(results, choose("method", known, methods), questions, seed)
    path, key_path = out / f"{results.name}-study.html", _key_path(results.name, out)
    write_atomically(path, page.encode())
    write_atomically(key_path, json.dumps(asdict(key), indent=1).encode())
    return path, key_path


def study_results(suite_name: str, out: Path, files: Sequence[Path]) -> tuple[list[dict[str, Any]], str]:
    """Strengths of methods from the answers to a suite's study, and their table."""
    methods, answers = read_answers(files, read_key(_key_path(read_suite(suite_name).name, out)))
    found = analyse(methods, answers)
    return [asdict(s) for s in found], study_table(found, len({a.rater for a in answers}), len(answers))


def _key_path(suite: str, out: Path) -> Path:
    return out / f"{suite}-study-key.json"


def _baseline_path(suite: str, path: Path | None) -> Path:
    return path or Path("baselines") / f"{suite}.json"


def check_records(
    suite_name: str, out: Path, path: Path | None, page: Path | None = None
) -> tuple[list[Judgement], str]:
    """Verdicts on a suite's records, and their summary; ``page`` gets it as markdown."""
    suite = read_suite(suite_name)
    baseline = load_baseline(_baseline_path(suite.name, path))
    judgements = load_results(out, suite.name).check(baseline)
    if page is not None:
        write_atomically(page, summary_markdown(judgements, suite.name).encode())
    return judgements, summary(judgements)


def pin_records(suite_name: str, out: Path, path: Path | None) -> Path:
    """Pin a suite's records as its baseline; returns the file. Records of seeds that the suite does not name are not
    pinned: they tell how far reseeding moves the others."""
    suite = read_suite(suite_name)
    target = _baseline_path(suite.name, path)
    pin(load_results(out, suite.name), target, suite.seeds)
    return target


def find_record(suite_name: str, out: Path, part: str) -> Record:
    """The one record whose id is ``part``, or else begins with it and a seed, or else contains it.

    Raises:
        UsageError: if none or several match.
    """
    records = {r.cell.id: r for r in store_of(read_suite(suite_name), out).records()}
    if part in records:
        return records[part]
    found = [cell_id for cell_id in records if cell_id.startswith(f"{part}-s")]
    found = found or [cell_id for cell_id in records if part in cell_id]
    if not found:
        raise unknown_name("cell", part, records)
    if len(found) > 1:
        raise UsageError(f"'{part}' matches {len(found)} cells: {', '.join(found[:5])}")
    return records[found[0]]
