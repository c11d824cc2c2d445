"""Bad inputs, the line that each prints and the exit code: 2 for usage, 3 for the environment, 1 for failures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import BUNDLED_SUITE, invoke

from invsuite.results.record import SCHEMA

Words = tuple[object, ...]


def bench(*words: object) -> Callable[[Path], Words]:
    """`bench` of the tiny suite."""
    return lambda folder: ("bench", "--suite", folder / "tiny.toml", "--out", folder / "r", "--device", "cpu", *words)


def plain(*words: object) -> Callable[[Path], Words]:
    """These words."""
    return lambda folder: words


def model(source: str, *words: object) -> Callable[[Path], Words]:
    """`bench` of one other model on the tiny suite's data."""
    return bench("--models", source, "--methods", "mean", "--metrics", "psnr", *words)


def edited(old: str, new: str, *words: object) -> Callable[[Path], Words]:
    """`bench` of the tiny suite with ``old`` replaced by ``new``."""
    assert old in BUNDLED_SUITE

    def build(folder: Path) -> Words:
        (folder / "tiny.toml").write_text(BUNDLED_SUITE.replace(old, new, 1))
        return (*bench("--methods", "mean", "--models", "vit", "--stages", "embed")(folder), *words)

    return build


def written(name: str, content: str, *words: object) -> Callable[[Path], Words]:
    """The words, where FILE is a file of this name and content and OUT the results' folder."""

    def build(folder: Path) -> Words:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
        known = {"FILE": folder / name, "OUT": folder / "r", "SUITE": folder / "tiny.toml"}
        return tuple(known.get(str(word), word) for word in words)

    return build


SCORED = 'kind = "scenes"\nseed = 33\ncount = 6'


def scored_on(keys: str, name: str, content: str) -> Callable[[Path], Words]:
    """`bench` of the tiny suite, scored on the folder ``data`` in which one file is of this name and content."""

    def build(folder: Path) -> Words:
        (folder / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "data" / name).write_text(content)
        table = f"{keys}\npath = {json.dumps(str(folder / 'data'))}"
        return edited(SCORED, table)(folder)

    return build


COCO, INSTANCES = 'kind = "coco"\nsplit = "val"', "annotations/instances_val.json"
TWO_OF_AN_ID = {"images": [{"id": 1, "file_name": name} for name in ("a.jpg", "b.jpg")], "annotations": []}
RECORD = "r/records/tiny/vit-embed-mean-s0-0123456789ab.json"
CASES: dict[str, tuple[Callable[[Path], Words], int, str]] = {
    "no such model": (bench("--models", "vti"), 2, "unknown model 'vti': did you mean vit"),
    "no such stage": (bench("--stages", "blok03"), 2, "unknown stage 'blok03': did you mean block03"),
    "no such method": (bench("--methods", "modula"), 2, "unknown method 'modula': did you mean modular"),
    "no such measure": (bench("--metrics", "pnsr"), 2, "unknown metric 'pnsr': did you mean psnr"),
    "a seed that is a word": (
        bench("--seeds", "one"),
        2,
        "--seeds 'one' is not a comma-separated list",
    ),
    "no such device": (
        plain("bench", "--device", "abacus"),
        2,
        "unknown device 'abacus': use auto, cpu, cuda",
    ),
    "a device that is not there": (plain("bench", "--device", "cuda:99"), 3, "device 'cuda:99' is not there"),
    "a device of another kind": (plain("bench", "--device", "meta"), 2, "device 'meta' is not supported"),
    "two ways to redo": (
        bench("--refresh", "--only-missing"),
        2,
        "--retry-failed, --only-missing and --refresh exclude each other: give one",
    ),
    "no such suite": (plain("bench", "--suite", "quik"), 2, "unknown suite 'quik': did you mean quick"),
    "a suite file that is not there": (
        plain("bench", "--suite", "no.toml"),
        2,
        "'no.toml': it cannot be read",
    ),
    "a suite that is not TOML": (edited("[budget]", "[budget"), 2, "is not TOML"),
    "a suite of no text": (written("x.toml", "\0", "bench", "--suite", "FILE"), 2, "is not TOML"),
    "an unknown key": (edited("edits = 3", "edit = 3"), 2, "unknown key 'edit': did you mean edits"),
    "a missing key": (edited("edits = 3", ""), 2, "'edits' is missing"),
    "a key of another type": (
        edited("batch = 16", 'batch = "16"'),
        2,
        "'budget.batch' is '16', expected",
    ),
    "a negative number": (edited("edits = 3", "edits = -3"), 2, "'edits' is -3, expected 0 or more"),
    "a name with a slash": (
        edited("[methods.mean]", '[methods."my/mean"]'),
        2,
        "'methods.my/mean' is 'my/mean': a name becomes part of file names",
    ),
    "a suite that leads out of the folder": (edited('"tiny"', '"../tiny"'), 2, "'name' is '../tiny'"),
    "a number that is not finite": (edited("batch = 16", "batch = nan"), 2, "'budget.batch' is nan, expected a finite"),
    "a backslash in double quotes": (edited("bundled:vit", "C:\\temp"), 2, "in double quotes a backslash begins"),
    "an option that is not finite": (bench("--keep", "inf"), 2, "--keep is inf, expected a finite number"),
    "a loader that raises": (
        written(
            "lab.py",
            "from invsuite import register\n\n\n@register.model('lab')\ndef load(*words):\n    raise OSError('no')\n",
            *("bench", "--suite", "SUITE", "--out", "OUT", "--plugin", "FILE"),
            *("--models", "lab:x", "--methods", "mean"),
        ),
        1,
        "model 'x' (lab:x) cannot be loaded: OSError: no",
    ),
    "a measure without values": (
        written(
            "lab.py",
            "from invsuite import Metric, register\n\n\n@register.metric\nclass M(Metric):\n    name = 'm'\n",
            *("list", "metrics", "--plugin", "FILE"),
        ),
        2,
        "metric 'm' lacks compute()",
    ),
    "two budgets": (
        edited("image_passes = 64", "image_passes = 64\nseconds = 5"),
        2,
        "exactly one of 'image_passes', 'seconds', 'flops' is needed, got 'image_passes' and 'seconds'",
    ),
    "no such data": (edited('"scenes"', '"scene"'), 2, "unknown data.fit.kind 'scene'"),
    "no such parameter": (edited("[methods.mean]", "[methods.mean]\nsize = 3"), 2, "'methods.mean.size'"),
    "fewer images than a batch": (edited("count = 64", "count = 8"), 2, "8 fit images are fewer than one batch of 16"),
    "the same images twice": (edited("seed = 33", "seed = 31"), 2, "are in both the fit and the score split"),
    "no such source": (edited("bundled:vit", "bundle:vit"), 2, "did you mean bundled"),
    "no such bundled model": (edited("bundled:vit", "bundled:vti"), 2, "vti"),
    "a plug-in that is not there": (bench("--plugin", "no.py"), 2, "plug-in file 'no.py' does not exist"),
    "a plug-in that breaks": (
        written("bad.py", "1 / 0", "bench", "--plugin", "FILE"),
        2,
        "cannot be loaded: ZeroDivisionError: division by zero",
    ),
    "an output folder that is a file": (
        written("r", "", "bench", "--suite", "SUITE", "--out", "OUT", "--methods", "mean", "--device", "cpu"),
        3,
        "cannot write",
    ),
    "no records": (plain("report", "--out", "/nonexistent"), 2, "no records of suite 'quick' in '/nonexistent'; run: "),
    "no such cell": (plain("show", "nothing", "--out", "/nonexistent"), 2, "unknown cell 'nothing'"),
    "a record of another schema": (
        written(RECORD, json.dumps({"schema": SCHEMA + 1}), "report", "--suite", "SUITE", "--out", "OUT"),
        2,
        f"has schema {SCHEMA + 1}, this invsuite reads {SCHEMA}: delete it, or use another --out",
    ),
    "an edited record": (
        written(
            RECORD,
            json.dumps({"record_sha256": "0" * 64, "schema": SCHEMA, "status": "ok"}),
            "report",
            "--suite",
            "SUITE",
            "--out",
            "OUT",
        ),
        1,
        "was changed after it was written; delete it and run the suite again",
    ),
    "no baseline": (
        plain("check", "--out", "/nonexistent", "--baseline", "/no.json"),
        2,
        "baseline '/no.json' cannot be read (No such file or directory); pin one with: invsuite baseline",
    ),
    "a baseline that is not JSON": (written("b.json", "{", "check", "--baseline", "FILE"), 2, "is not JSON"),
    "a baseline of another schema": (
        written("b.json", '{"schema": 9}', "check", "--baseline", "FILE"),
        2,
        "has schema 9, expected 3; pin it again",
    ),
    "an image id of two files": (
        scored_on(COCO, INSTANCES, json.dumps(TWO_OF_AN_ID | {"categories": []})),
        1,
        "image id 1 names both 'a.jpg' and 'b.jpg': give one of them another id",
    ),
    "annotations that are no COCO": (scored_on(COCO, INSTANCES, "[]"), 1, "not a COCO instances file"),
    "no such colour": (
        edited(SCORED, 'kind = "folder"\npath = "."\ncolour = "P3"'),
        2,
        "unknown data.score.colour 'P3'",
    ),
    "weights that are not there": (model("timm:test_vit@typo.pth"), 3, "weights file 'typo.pth' does not exist"),
    "a model's folder that is not there": (model("detr:./typo"), 3, "checkpoint folder './typo' does not exist"),
    "a folder of timm's that is not there": (model("timm:local-dir:typo"), 3, "model folder 'typo' does not exist"),
    "an ONNX file that is not there": (model("onnx:typo.onnx"), 3, "ONNX file 'typo.onnx' does not exist"),
    "photos that are not there": (edited(SCORED, 'kind = "folder"\npath = "typo"'), 3, "photo folder 'typo' does not"),
    "a COCO root that is not there": (
        edited(SCORED, 'kind = "coco"\npath = "typo"\nsplit = "val2017"'),
        3,
        "COCO annotations 'typo/annotations/instances_val2017.json' do not exist",
    ),
    "weights that are none": (model(f"timm:test_vit@{__file__}"), 3, "test_bad_input.py' cannot be read"),
    "an image size of nothing": (model("timm:test_vit@0x96"), 2, "image size '0x96' has no pixels"),
    "an image size that does not fit": (
        model("timm:test_vit@70x96", "--random-weights"),
        2,
        "does not run on images of 70x96",
    ),
    "a quote that is not closed": (bench("--models", 'timm:test_vit@"a,b'), 2, "a double quote that is not closed"),
    "no such list": (plain("list", "nothing"), 2, "unknown kind of list 'nothing'"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_line_and_the_right_code(case: str, tmp_path: Path) -> None:
    build, code, said = CASES[case]
    (tmp_path / "tiny.toml").write_text(BUNDLED_SUITE)
    result = invoke(*build(tmp_path))
    assert result.exit_code == code, result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    recorded = [line for line in result.stdout.splitlines() if line.startswith(("failed: ", "skipped: "))]
    [line] = errors or recorded  # a model that cannot be used is a record with the reason, for the others go on
    assert said in line
    assert "Traceback" not in result.output
    assert "hf download" not in result.output


def test_there_are_thirty() -> None:
    assert len(CASES) >= 30
