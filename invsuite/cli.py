"""The command line: parse, call, print; no logic.

Exit codes: 0 ok, 1 a cell failed or a regression, 2 usage, 3 environment.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import typer

from invsuite.errors import InvsuiteError, UsageError, unknown_name
from invsuite.offline import go_offline

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Benchmark of feature inversion for transformer vision models.",
)
P = ParamSpec("P")

SuiteOption = Annotated[str, typer.Option(help="Suite: the name of a bundled one, or a TOML file.")]
OutOption = Annotated[Path, typer.Option(help="Folder for tables and, below records/, one JSON record a cell.")]
ModelsOption = Annotated[str, typer.Option(help="Models to run, comma-separated names or patterns (default: all).")]
StagesOption = Annotated[str, typer.Option(help="Stages, likewise.")]
MethodsOption = Annotated[str, typer.Option(help="Methods, likewise.")]
MetricsOption = Annotated[str, typer.Option(help="Metrics, likewise.")]
SeedsOption = Annotated[str, typer.Option(help="Seeds of trained methods, comma-separated numbers.")]
BaselineOption = Annotated[Path | None, typer.Option(help="Baseline file (default: baselines/SUITE.json).")]
OfflineOption = Annotated[
    bool, typer.Option("--offline", help="Never touch the network: hub clients answer from their caches.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output and nothing else.")]


def _one_line_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Turn the suite's own errors into one line on standard error and the right exit code."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except InvsuiteError as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            print("interrupted; finished cells are kept, run the same command to go on", file=sys.stderr)
            raise typer.Exit(130) from error

    return wrapped


def _names(text: str) -> tuple[str, ...] | None:
    return tuple(part.strip() for part in text.split(",") if part.strip()) or None


def _seeds(text: str) -> tuple[int, ...] | None:
    try:
        return tuple(int(part) for part in _names(text) or ()) or None
    except ValueError as error:
        raise UsageError(f"--seeds '{text}' is not a comma-separated list of whole numbers") from error


@app.command()
@_one_line_errors
def bench(
    models: ModelsOption = "",
    suite: SuiteOption = "quick",
    stages: StagesOption = "",
    methods: MethodsOption = "",
    metrics: MetricsOption = "",
    seeds: SeedsOption = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    out: OutOption = Path("results"),
    dry_run: Annotated[
        bool, typer.Option(help="Print the matrix and what it would cost, from a short calibration; run nothing.")
    ] = False,
    offline: OfflineOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run a suite (cells already computed are reused) and write its leaderboard."""
    if offline:
        go_offline()
    from invsuite.bench import BenchOptions, run_bench

    options = BenchOptions(
        suite=suite,
        models=_names(models),
        stages=_names(stages),
        methods=_names(methods),
        metrics=_names(metrics),
        seeds=_seeds(seeds),
        device=device,
        out=out,
        dry_run=dry_run,
    )
    result = run_bench(options)
    print(json.dumps(result.tree, indent=1) if as_json else result.text)
    if result.failed:
        raise typer.Exit(1)


@app.command()
@_one_line_errors
def fetch(
    suite: Annotated[str, typer.Argument(help="Suite: the name of a bundled one, or a TOML file.")],
    yes: Annotated[
        bool, typer.Option("--yes", help="Fetch; without it sizes are listed and nothing is fetched.")
    ] = False,
    offline: OfflineOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say what a suite needs and how large it is; with --yes bring weights and COCO, with their digests."""
    if offline:
        go_offline()
    from invsuite.bench import run_fetch

    result = run_fetch(suite, yes, lambda line: print(line, file=sys.stderr, flush=True))
    print(json.dumps(result.tree, indent=1) if as_json else result.text)


@app.command()
@_one_line_errors
def report(suite: SuiteOption = "quick", out: OutOption = Path("results")) -> None:
    """Render the leaderboard and the strips of pictures again from the records."""
    from invsuite.bench import rerender

    for path in rerender(suite, out):
        print(path)


@app.command()
@_one_line_errors
def efficiency(
    suites: Annotated[list[str], typer.Argument(help="Suites with records: names of bundled ones, or TOML files.")],
    out: OutOption = Path("results"),
) -> None:
    """Write efficiency.md: methods at equal cost and at equal quality, from the records of one or more suites."""
    from invsuite.bench import write_efficiency

    print(write_efficiency(suites, out))


@app.command()
@_one_line_errors
def check(
    suite: SuiteOption = "quick",
    out: OutOption = Path("results"),
    baseline: BaselineOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare records with the baseline; exit 1 on anything worse, newly failing, missing or not comparable."""
    from invsuite.bench import check_records

    findings, text = check_records(suite, out, baseline)
    print(json.dumps([f.__dict__ for f in findings], indent=1) if as_json else text)
    if any(f.bad for f in findings):
        raise typer.Exit(1)


@app.command("baseline")
@_one_line_errors
def pin_baseline(
    suite: SuiteOption = "quick", out: OutOption = Path("results"), baseline: BaselineOption = None
) -> None:
    """Pin the records' quality values as the baseline that `check` compares with."""
    from invsuite.bench import pin_records

    print(pin_records(suite, out, baseline))


@app.command("list")
@_one_line_errors
def list_units(
    kind: Annotated[str, typer.Argument(help="models, methods, metrics or suites.")] = "models",
    as_json: JsonOption = False,
) -> None:
    """List what exists."""
    from tabulate import tabulate

    from invsuite.catalogue import CATALOGUE

    if kind not in CATALOGUE:
        raise unknown_name("kind of list", kind, CATALOGUE)
    rows = CATALOGUE[kind]()
    print(json.dumps(rows, indent=1) if as_json else tabulate(rows, headers="keys", maxcolwidths=60))


@app.command()
@_one_line_errors
def show(
    cell: Annotated[str, typer.Argument(help="A cell's id, or enough of it to be the only match.")],
    suite: SuiteOption = "quick",
    out: OutOption = Path("results"),
) -> None:
    """Print one cell's record."""
    from invsuite.bench import find_record

    print(json.dumps(find_record(suite, out, cell), indent=1))


@app.command("train-bundled")
@_one_line_errors
def train_bundled(
    out: Annotated[Path, typer.Option(help="Folder for the weights and card.json.")] = Path("bundled"),
    scale: Annotated[float, typer.Option(help="Share of the full recipe's steps (1 takes about 50 minutes).")] = 1.0,
) -> None:
    """Train the two bundled models again from nothing and write weights and model card."""
    from invsuite.bundled.train import train_all

    def log(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    print(json.dumps(train_all(out, scale, log), indent=1))


def main() -> Any:
    """Entry point."""
    return app()
