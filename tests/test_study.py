"""The blind study: the page tells no methods and saves what was answered; strengths come back from known ones."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import invented
import numpy as np
import pytest
from browser import launched, opened
from helpers import invoke
from playwright.sync_api import Browser

from invsuite.errors import DataError, UsageError
from invsuite.report.results import store_of
from invsuite.report.study import Answer, analyse, plan_pairs, strengths
from invsuite.results.pictures import first_sheet
from invsuite.results.record import Record

METHODS = ("mean", "ridge", "layerwise", "modular")
QUESTIONS = 12


def record(method: str, stage: str) -> Record:
    one = invented.record("vit", stage, method, images=6)
    one.cell.suite = "quick"
    return one


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with records and strips of quick, and the study made from them."""
    folder = tmp_path_factory.mktemp("study")
    store = store_of("quick", folder)
    rng = np.random.default_rng(0)
    paths = [store.originals_path("vit")]
    for stage in ("embed", "block03"):
        for method in METHODS:
            store.write(record(method, stage))
            paths.append(store.first_path(record(method, stage).cell.id))
    for path in paths:
        path.write_bytes(first_sheet(rng.integers(0, 256, (6, 24, 24, 3), dtype=np.uint8)))
    done = invoke("study", "--out", folder, "--questions", QUESTIONS)
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as found:
        yield found


def test_the_page_names_no_method(out: Path) -> None:
    page = (out / "quick-study.html").read_text()
    key = json.loads((out / "quick-study-key.json").read_text())
    visible = page.split('"pictures"')[0] + page.split("</script>", 1)[1]
    for word in (*METHODS, "vit-", "embed", "block03"):
        assert word not in visible
    pairs = json.loads(page.split('id="page">')[1].split("</script>")[0])["pairs"]
    assert len(pairs) == len(key["pairs"]) == QUESTIONS
    # neither the side nor the order of the pictures tells the method
    assert len({pair["left"] for pair in key["pairs"]}) > 1
    first = [pair[1] for pair in pairs]
    assert first != sorted(first)
    again = invoke("study", "--out", out, "--questions", QUESTIONS)
    assert again.exit_code == 0
    assert (out / "quick-study.html").read_text() == page, "the same seed, the same study"


def test_pairs_are_spread_over_methods_and_sides() -> None:
    records = [record(method, stage) for stage in ("embed", "block03") for method in METHODS]
    pairs = plan_pairs(records, 6, 48, 0)
    counts = Counter(tuple(sorted((pair.left, pair.right))) for pair in pairs)
    assert set(counts.values()) == {8}, "6 pairs of methods, evenly"
    assert len(set(pairs)) == 48
    left = Counter(pair.left for pair in pairs)
    assert min(left.values()) >= 6, "every method is on either side"
    assert plan_pairs(records, 6, 48, 1) != pairs
    assert len(plan_pairs(records, 6, 1000, 0)) == 72
    with pytest.raises(UsageError, match="two methods"):
        plan_pairs(records[:1], 6, 10, 0)


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (390, 844), (360, 640)])
def test_pictures_and_buttons_fit_the_screen(out: Path, browser: Browser, width: int, height: int) -> None:
    with opened(browser, out / "quick-study.html", viewport={"width": width, "height": height}) as page:
        page.get_by_label("Your name").fill("a")
        page.get_by_role("button", name="Start").click()
        page.keyboard.press("ArrowLeft")
        page.locator("#left").evaluate("each => each.decode()")
        for each in page.locator("#trial img, main button:visible").all():
            box = each.bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
            assert box["y"] + box["height"] <= height, "no need to scroll"


def test_answers_by_keys_and_buttons_are_saved_and_read(out: Path, browser: Browser, tmp_path: Path) -> None:
    given = ["left", "tie", "right"] * (QUESTIONS // 3)
    with opened(browser, out / "quick-study.html", viewport={"width": 360, "height": 740}) as page:
        page.keyboard.press("ArrowLeft")  # nothing has begun
        page.get_by_label("Your name").fill("Rater <1>")
        page.keyboard.press("ArrowLeft")  # in the field
        page.get_by_role("button", name="Start").click()
        assert page.locator("#progress").inner_text() == f"Pair 1 of {QUESTIONS}"
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Backspace")
        for number, choice in enumerate(given):
            assert page.locator("#left").evaluate("each => each.decode().then(() => each.naturalWidth)") == 24
            if number % 2:
                page.locator(f"[data-choice={choice}]").click()
            else:
                page.keyboard.press({"left": "ArrowLeft", "tie": "ArrowDown", "right": "ArrowRight"}[choice])
        assert f"All {QUESTIONS} pairs are answered" in page.locator("#thanks").inner_text()
        with page.expect_download() as download:
            page.get_by_role("button", name="Save answers").click()
        assert download.value.suggested_filename == "quick-answers-Rater_1_.json"
        path = tmp_path / "answers.json"
        download.value.save_as(path)
    saved = json.loads(path.read_text())
    assert saved["rater"] == "Rater <1>"
    assert [answer["choice"] for answer in saved["answers"]] == given
    assert [answer["pair"] for answer in saved["answers"]] == list(range(QUESTIONS))
    done = invoke("study-results", path, "--out", out, "--json")
    if done.exit_code:  # twelve answers may leave a method without a win
        assert "do not join all methods" in done.stderr
    else:
        assert sum(entry["n"] for entry in json.loads(done.stdout)) == 2 * QUESTIONS


def simulate(true: np.ndarray, raters: int, each: int, ties: float, seed: int) -> list[Answer]:
    """Answers by the model itself; a share of ``ties``, whoever would have won."""
    rng = np.random.default_rng(seed)
    answers = []
    for rater in range(raters):
        for _ in range(each):
            i, j = rng.choice(len(true), 2, replace=False)
            won = float(rng.random() < 1 / (1 + np.exp(true[j] - true[i])))
            answers.append(Answer(f"r{rater}", int(i), int(j), 0.5 if rng.random() < ties else won))
    return answers


def test_known_strengths_come_back() -> None:
    true = np.array([1.2, 0.3, -0.2, -1.3])
    found = {s.method: s for s in analyse(METHODS, simulate(true, 12, 200, 0.0, 0), resamples=200)}
    assert [s.method for s in analyse(METHODS, simulate(true, 12, 200, 0.0, 0), resamples=20)] == list(METHODS)
    assert sum(s.strength for s in found.values()) == pytest.approx(0, abs=1e-9)
    for name, strength in zip(METHODS, true, strict=True):
        assert found[name].strength == pytest.approx(strength, abs=0.2)
        assert found[name].low is not None
        assert found[name].low < found[name].strength < found[name].high
    assert sum(s.n for s in found.values()) == 2 * 2400
    assert sum(s.wins for s in found.values()) == 2400
    pulled = {s.method: s.strength for s in analyse(METHODS, simulate(true, 12, 200, 0.5, 0), resamples=20)}
    assert 0 < pulled["mean"] < found["mean"].strength, "ties pull strengths together"


def test_two_methods_have_the_closed_form() -> None:
    gap = np.subtract(*strengths(np.array([[0.0, 7.5], [2.5, 0.0]])))
    assert gap == pytest.approx(np.log(3), abs=1e-4)


def test_intervals_cover_what_they_should() -> None:
    true = np.array([0.8, 0.0, -0.8])
    covered = total = 0
    for seed in range(40):
        for s in analyse(METHODS[:3], simulate(true, 6, 40, 0.0, seed), resamples=60):
            strength = true[METHODS.index(s.method)]
            covered += (s.low is None or s.low <= strength) and (s.high is None or strength <= s.high)
            total += 1
    assert 0.88 <= covered / total <= 1.0


def test_few_answers_have_no_bound_or_no_strength() -> None:
    clear = [Answer("a", 0, 1, 1.0)] * 5
    with pytest.raises(DataError, match="do not join all methods"):
        analyse(METHODS, clear)
    nearly = analyse(METHODS, [*clear, Answer("a", 0, 1, 0.5)], resamples=200)
    assert [s.method for s in nearly] == ["mean", "ridge"]
    assert nearly[0].high is None, "in many resamples it always wins"
    assert (nearly[0].n, nearly[0].wins, nearly[0].ties) == (6, 5, 1)


GOOD: dict[str, Any] = {"format": 1, "rater": "a", "answers": [{"pair": 0, "choice": "left"}]}
BAD: list[tuple[Any, str]] = [
    ("{", "is not JSON"),
    ([], "is not of format 1"),
    (GOOD | {"format": 9}, "is not of format 1"),
    (GOOD | {"answers": []}, "'answers' is [], expected at least one entry"),
    (GOOD | {"rater": 3}, "'rater' is 3, expected a text"),
    (GOOD | {"study": "another"}, "answers study 'another', the key is of study"),
    (GOOD | {"answers": [{"pair": 99, "choice": "left"}]}, "answers[0]: pair 99 is not one of 12"),
    (GOOD | {"answers": ["left"]}, "'answers[0]' is 'left', expected a table"),
    (GOOD | {"answers": [{"pair": 0, "choice": "both"}]}, "unknown answers[0].choice 'both'"),
    (GOOD | {"answers": [{"pair": 0, "choice": ["x"]}]}, "'answers[0].choice' is ['x'], expected left or right or tie"),
    (GOOD | {"answers": [{"pair": 1, "choice": "tie"}] * 2}, "answers[1]: pair 1 is answered twice"),
]


@pytest.mark.parametrize(("tree", "line"), BAD)
def test_bad_answers_give_one_line(out: Path, tmp_path: Path, tree: Any, line: str) -> None:
    study = json.loads((out / "quick-study-key.json").read_text())["study"]
    path = tmp_path / "answers.json"
    path.write_text(tree if isinstance(tree, str) else json.dumps({"study": study} | tree if tree else tree))
    done = invoke("study-results", path, "--out", out)
    assert done.exit_code == 2
    assert line in done.stderr
    assert done.stderr.count("\n") == 1
    assert str(path) in done.stderr


def test_what_is_missing_gives_one_line(out: Path, tmp_path: Path) -> None:
    study = json.loads((out / "quick-study-key.json").read_text())["study"]
    path = tmp_path / "answers.json"
    path.write_text(json.dumps({"study": study} | GOOD))
    for words, line in (
        (("study-results", path, path, "--out", out), "are both of rater 'a'"),
        (("study-results", tmp_path / "none.json", "--out", out), "cannot be read"),
        (("study-results", path, "--out", tmp_path), "the key of a study, written by: invsuite study"),
        (("study", "--out", tmp_path), "no records of suite 'quick'"),
        (("study", "--out", out, "--methods", "ridge"), "a study needs two methods"),
        (("study", "--out", out, "--methods", "rigde"), "did you mean ridge?"),
    ):
        done = invoke(*words)
        assert done.exit_code == 2
        assert line in done.stderr
        assert done.stderr.count("\n") == 1
