"""The commands of README and site, run as written on a copy of the project: the README's by a shell, in an environment
where invsuite is not installed; the others in this process, for one of their own would import torch for longer than it
runs. Commands in blocks called ``bash`` need what is not here (a GPU, a cluster, photos) and are not run."""

from __future__ import annotations

import csv
import os
import re
import shlex
import shutil
import subprocess
import sysconfig
import venv
from collections import Counter
from pathlib import Path

import pytest
from helpers import invoke
from typer.testing import Result

from invsuite.benchmark.suite import load_suite
from invsuite.registry import forget_plugins

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [README, *(path.read_text() for path in sorted((ROOT / "docs").rglob("*.md")))]
COMMANDS = dict.fromkeys(
    line
    for page in PAGES
    for block in re.findall(r"```sh\n(.*?)```", page, re.S)
    for line in block.splitlines()
    if line.strip() and not line.startswith("#")
)
MAIN = "pip install . && invsuite bench --models vit,detr"
TESTS = "pip install tox && tox"
CHECK = "invsuite check"
SUITE = load_suite("quick")
ROWS = {method.name: [m for m in SUITE.models if m.name in (method.models or [m.name])] for method in SUITE.methods}
STAGES = {name: sum(len(model.stages) for model in models) for name, models in ROWS.items()}
CELLS = sum(STAGES.values())


def test_the_readme_promises_two_commands_on_one_page() -> None:
    assert f"```sh\n{MAIN}\n```" in README
    assert f"```sh\n{TESTS}\n```" in README
    assert len(README.splitlines()) <= 90
    assert TESTS in (ROOT / ".ci" / "run").read_text(), "CI calls the README's test command"


def test_the_readme_shows_the_example_that_is_run() -> None:
    shown = re.findall(r"```python\n(.*?)```", README, re.S)
    example = (ROOT / "examples" / "fit_and_score.py").read_text()
    assert shown == [example.split('"""', 2)[2].lstrip()]


def test_the_numbers_of_the_readme_are_those_of_the_table() -> None:
    with (ROOT / "results" / "bundled.csv").open() as file:
        numbers = {
            (row["model"], row["stage"], row["method"]): [float(row[key]) for key in ("mean", "ci95_low", "ci95_high")]
            for row in csv.DictReader(file)
            if row["measure"] == "psnr" and row["mean"]
        }
    heads, _, *rows = [line.strip("| ").split(" | ") for line in README.splitlines() if line.startswith("| ")][:8]
    assert heads[:2] == ["model", "stage"]
    for model, stage, *cells in rows:
        for method, cell in zip(heads[2:], cells, strict=True):
            if cell == "-":
                assert (model, stage, method) not in numbers
                continue
            mean, low, high = numbers[model, stage, method]
            assert cell.strip("*") == f"{mean:.1f} [{low:.1f}, {high:.1f}]", (model, stage, method)


def test_links_of_the_readme_lead_somewhere() -> None:
    for page in (README, (ROOT / "CONTRIBUTING.md").read_text()):
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page):
            assert link.startswith("https://arxiv.org/") or (ROOT / link).is_file(), link


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A copy of the project and an environment without invsuite that finds this one's other packages."""
    folder = tmp_path_factory.mktemp("readme")
    ignore = shutil.ignore_patterns(".git", ".tox", ".venv", "records", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, folder / "project", ignore=ignore)
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([python, "-c", where], text=True).strip())
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_REQUIRE", "TOX"))},
        "PATH": f"{folder / 'env' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
    }
    return folder, environment


def run(command: str, cwd: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=2700
    )


def run_here(command: str, cwd: Path) -> Result:
    """The words of a command, in this process."""
    program, *words = shlex.split(command)
    assert program == "invsuite"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        done = invoke(*words)
    forget_plugins()  # units that a plug-in registered
    return done


@pytest.fixture(scope="module")
def main_job(fresh: tuple[Path, dict[str, str]]) -> tuple[Path, dict[str, str]]:
    """The same after the main command, as written."""
    folder, environment = fresh
    shutil.rmtree(folder / "project" / "results", ignore_errors=True)
    done = run(MAIN, folder / "project", environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return fresh


@pytest.mark.slow
def test_the_main_command_as_written(main_job: tuple[Path, dict[str, str]]) -> None:
    folder, environment = main_job
    project = folder / "project"
    where = run("cd / && python -c 'import invsuite; print(invsuite.__file__)'", project, environment).stdout
    assert where.startswith(str(folder / "env")), "the command that ran is the one installed from this folder"
    table = (project / "results" / "quick.md").read_text()
    assert "small bundled models" in table.splitlines()[0]
    check_the_claims(project / "results" / "quick.csv")
    again = run_here("invsuite bench --models vit,detr", project)
    assert f"0 cells computed, {CELLS} reused" in again.stdout


def check_the_claims(path: Path) -> None:
    """Every method scored every stage it applies to; networks beat the mean by 3 dB at the first stage, and early
    stages reconstruct better than late ones."""
    with path.open() as file:
        psnr = {
            (row["model"], row["stage"], row["method"]): float(row["mean"])
            for row in csv.DictReader(file)
            if row["measure"] == "psnr"
        }
    scored = Counter(method for _, _, method in psnr)
    assert scored.pop("exact") == 1, "only the ViT's embedding is an affine map"
    assert scored == {name: count for name, count in STAGES.items() if name != "exact"}
    for model, first, last in (("vit", "embed", "block06"), ("detr", "backbone", "decoder")):
        for method in ("layerwise", "modular"):
            assert psnr[model, first, method] >= psnr[model, first, "mean"] + 3
        for method in ("ridge", "layerwise", "modular"):
            assert psnr[model, first, method] > psnr[model, last, method]


@pytest.mark.slow
def test_no_number_of_the_main_job_has_become_worse(main_job: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    """The regression check: results are held against the pinned ``baselines/quick.json``. Where INVSUITE_CHECK_MARKDOWN
    names a file, the summary for a pull request is written there."""
    folder, environment = main_job
    assert CHECK in COMMANDS
    summary = Path(os.environ.get("INVSUITE_CHECK_MARKDOWN", tmp_path / "check.md"))
    checked = run(f"{CHECK} --markdown '{summary}'", folder / "project", environment)
    assert checked.returncode == 0, checked.stdout
    assert "suite quick: passed" in summary.read_text()


@pytest.mark.slow
def test_the_other_commands_as_written(main_job: tuple[Path, dict[str, str]]) -> None:
    """Every other command of README and site runs after the main one, in the same folder; what only plans, in an empty
    one: suites travel in the package."""
    folder, _ = main_job
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    for command in COMMANDS:
        if command in (MAIN, TESTS, CHECK):
            continue
        planned = "--dry-run" in command
        done = run_here(command, elsewhere if planned else folder / "project")
        assert done.exit_code == 0, f"{command}\n{done.stderr[-2000:]}"
        assert not planned or re.search(r"(\d+) cells, \1 to run", done.stdout), done.stdout
