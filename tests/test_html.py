"""The report's page in a real browser: it opens without errors, sorts, filters, slides and drills down, by keyboard,
in the dark and on a phone; and names cannot break out of it."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import invented
import numpy as np
import pytest
from browser import launched, opened
from helpers import TINY_SUITE, invoke
from invented import measurement
from PIL import Image
from playwright.sync_api import Browser, Page
from test_store_and_check import record as a_record

from invsuite.report.figures import Pictures, first_pictures, kept_pictures, originals
from invsuite.report.html import _maps, cell_text, html_page
from invsuite.report.results import Results
from invsuite.results.pictures import (
    EACH,
    EDITED,
    MOST,
    Pixels,
    best_and_worst,
    first_sheet,
    paired_sheet,
    ranking,
    read_sheet,
)
from invsuite.results.rows import measures_of, rows_of
from invsuite.results.store import Store

SUITE = TINY_SUITE.replace('"lpips", "correspondence", "hue_gain"', '"correspondence", "hue_gain", "cross_application"')
SUITE = SUITE.replace("edits = 3", "edits = 3\ninterlayer = true").replace("count = 6\n", "count = 8\n")
SUITE = SUITE.replace("[methods.mean]", "[methods.mean]\n[methods.exact]")
SUITE = SUITE.replace("[methods.layerwise]\nwidth = 16\ndepth = 1\n", "")
NASTY = "<script>alert('x')</script>\"&'`</td>"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small real run."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "tiny.toml").write_text(SUITE)
    done = invoke("bench", "--suite", folder / "tiny.toml", "--out", folder)
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture(scope="module")
def results(run: Path) -> Results:
    return Results.load(run / "records" / "tiny")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as found:
        yield found


@pytest.fixture
def page(run: Path, browser: Browser) -> Iterator[Page]:
    with opened(browser, run / "tiny.html") as found:
        yield found


def column(page: Page, name: str) -> list[str]:
    """First lines of a column's visible cells."""
    at = page.evaluate(
        "n => [...document.querySelectorAll('#board thead th')].findIndex(h => h.dataset.name === n)", name
    )
    rows = page.locator("#board tbody tr:not([hidden])")
    return [text.split("\n")[0].strip() for text in rows.locator(f"> :nth-child({at + 1})").all_inner_texts()]


def numbers(texts: list[str]) -> list[float]:
    return [float(t.split()[0]) for t in texts if t[0].isdigit()]


def test_it_opens_and_is_small(page: Page, run: Path) -> None:
    assert page.locator("h1").inner_text() == "tiny: a suite for tests - models: vit, detr"
    assert (run / "tiny.html").stat().st_size < 2_000_000
    assert page.locator("#board tbody tr").count() == 17  # of 20 cells, 3 do not apply
    pictures = page.locator("img")
    assert pictures.count() > 12
    widths = pictures.evaluate_all("all => all.map(each => each.naturalWidth)")
    assert min(widths) > 0, "every picture decodes"


def test_every_number_of_the_board_shows_interval_and_n(page: Page) -> None:
    cells = page.locator("#board tbody td[data-measure]:not([data-sort=''])").all_inner_texts()
    assert len(cells) > 50
    for text in cells:
        value, interval, n = text.split("\n")[:3]
        assert float(value.split()[0]) is not None
        assert n.replace("\xa0", " ").startswith("n ")
        assert interval.startswith("[") or (interval, n.split()[1]) == ("no interval", "1"), text
    for text in page.locator(".painted").all_inner_texts():
        if text:  # of the measure that is shown
            assert "[" in text or "by definition" in text or text.endswith("no interval n\xa01"), text


def test_headings_sort_best_first_and_then_the_other_way(page: Page) -> None:
    head = page.locator("#board th[data-name='PSNR']")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    values = numbers(column(page, "PSNR"))
    assert values == sorted(values, reverse=True)
    assert values[0] > values[-1]
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert numbers(column(page, "PSNR")) == sorted(values)
    page.locator("#board th[data-name='Hue gain'] button").click()
    distances = [abs(value - 1) for value in numbers(column(page, "Hue gain"))]
    assert len(distances) > 5
    assert distances == sorted(distances), "closest to 1 first"
    for _ in range(2):  # rows without a value stay last
        page.locator("#board th[data-name='Cross-application'] button").click()
        missing = [not text[0].isdigit() for text in column(page, "Cross-application")]
        assert any(missing)
        assert missing == sorted(missing)
    assert head.get_attribute("aria-sort") is None


def test_filters_leave_what_they_say(page: Page) -> None:
    page.locator("#board-model").select_option("detr")
    assert set(column(page, "model")) == {"detr"}
    page.locator("#board-method").select_option("ridge")
    assert column(page, "stage") == ["backbone", "decoder"]
    page.locator("#board-stage").select_option("decoder")
    assert page.locator("#board-status").inner_text() == "1 of 17 rows."
    page.locator("#board-measure").select_option("ssim")
    heads = page.locator("#board thead th[data-measure]:visible")
    assert heads.count() == 1
    assert "SSIM" in heads.inner_text()
    page.locator("#map-measure").select_option("hue_gain")
    assert page.locator(".map:visible").get_attribute("data-measure") == "hue_gain"


def test_the_slider_walks_the_stages_by_keyboard(page: Page) -> None:
    slider = page.locator("#wall-stage")
    slider.focus()
    before = page.locator("#wall img").evaluate_all("all => all.map(each => each.src)")
    assert page.locator("#wall-shown").inner_text() == "embed (1 of 2)"
    page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "block03"
    assert page.locator("#wall-shown").inner_text() == "block03 (2 of 2)"
    after = page.locator("#wall img").evaluate_all("all => all.map(each => each.src)")
    assert after[:6] == before[:6], "the originals stay"
    assert after[6:] != before[6:]
    page.locator("#wall-model").select_option("1")
    assert page.locator("#wall-shown").inner_text() == "decoder (2 of 2)"
    assert page.locator("#wall tbody th").all_inner_texts()[0] == "original"


def test_drilling_down_finds_the_worst_and_best_image(page: Page, results: Results) -> None:
    record = next(r for r in results if r.cell.stage == "block03" and r.cell.method == "ridge")
    for name, choice in (("model", "vit"), ("stage", "block03"), ("method", "ridge"), ("measure", "1")):
        page.locator(f"#image-{name}").select_option(choice)
    values = [value for value in record.measurements["ssim"].values if value is not None]
    for end, wanted in (("worst", min(values)), ("best", max(values))):
        card = page.locator(f"#images-{end} li.pair").first
        assert card.locator(".chosen").inner_text() == f"SSIM {wanted:.3f}"
        assert record.images[values.index(wanted)] in card.inner_text()
        assert card.locator("img").count() == 2
    assert page.locator("#images-worst li.pair").count() == EACH
    assert "n = 8" in page.locator("#images-status").inner_text()


def test_headings_and_links_work_by_keyboard_alone(page: Page) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the leaderboard"
    page.locator("#board th[data-name='SSIM'] button").focus()
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    assert page.locator("#board th[data-name='SSIM']").get_attribute("aria-sort") == "descending"


def test_what_a_screen_reader_needs(page: Page) -> None:
    found = page.evaluate(
        """() => ({
            lang: document.documentElement.lang,
            heads: [...document.querySelectorAll('th')].filter(each => !each.scope).length,
            unnamed: [...document.querySelectorAll('select, input')].filter(each => !each.labels.length).length,
            pictures: [...document.querySelectorAll('img')].filter(each => !each.alt).length,
            charts: [...document.querySelectorAll('figure > svg')].filter(each => !each.ariaLabel).length,
            regions: [...document.querySelectorAll('.scroll')].filter(
                each => each.tabIndex !== 0 || !each.ariaLabel).length,
            ids: [...document.querySelectorAll('[id]')].length - new Set(
                [...document.querySelectorAll('[id]')].map(each => each.id)).size,
        })"""
    )
    assert found == {"lang": "en"} | dict.fromkeys(("heads", "unnamed", "pictures", "charts", "regions", "ids"), 0)


def light(page: Page) -> float:
    """Brightness of the background, 0 to 255."""
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return float(np.mean([int(part) for part in colour.strip("rgb()").split(",")]))


def test_dark_by_preference_and_by_button(run: Path, browser: Browser) -> None:
    for scheme, dark in (("dark", True), ("light", False)):
        with opened(browser, run / "tiny.html", color_scheme=scheme) as page:
            assert (light(page) < 60) is dark
            page.locator("#theme").click()
            assert (light(page) < 60) is not dark
            page.locator("#theme").click()
            assert (light(page) < 60) is dark


def test_a_phone_scrolls_tables_and_never_the_page(run: Path, browser: Browser) -> None:
    with opened(browser, run / "tiny.html", viewport={"width": 360, "height": 740}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        board = page.locator("#leaderboard .scroll")
        assert board.evaluate("each => each.scrollWidth > each.clientWidth")
        page.locator("#board-method").select_option("ridge")
        for part in page.locator("details").all():
            part.evaluate("each => each.open = true")
        assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_curves_matrices_and_reasons_are_there(page: Page) -> None:
    assert page.locator("#costs figure").count() >= 6
    assert page.locator("#costs polyline").count() > 6
    between = page.locator("#between").inner_text()
    assert "CKA (n=64)" in between
    assert "Cross-application, ridge" in between
    missing = page.locator("#missing").inner_text()
    assert "not applicable: stage 'block03' of model 'vit' is not an affine map of the image" in missing
    assert "vit/block03/exact" in missing
    assert "SHA-256" in page.locator("#origin").inner_text()


def renamed(results: Results) -> Results:
    """Results whose names are attacks, one of them failed with such a reason."""
    nasty = copy.deepcopy(list(results))
    for record in nasty:
        record.cell.title = NASTY
        for part in ("model", "stage", "method"):
            setattr(record.cell, part, getattr(record.cell, part) + NASTY)
    nasty[0] = replace(nasty[0], status="failed", reason=NASTY, traceback=NASTY)
    return replace(results, records=nasty)


def test_names_are_text(results: Results, browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(html_page(renamed(results)))
    with opened(browser, path) as page:
        dialogs: list[str] = []
        page.on("dialog", lambda dialog: dialogs.append(dialog.message))
        assert page.locator("h1").inner_text().startswith(NASTY)
        assert page.locator("script").count() == 3
        assert page.locator("#board tbody th").first.inner_text().endswith(NASTY)
        page.locator("#board-method").select_option(f"ridge{NASTY}")
        assert page.locator("#board-status").inner_text() == "4 of 17 rows."
        page.locator("#image-method").select_option(f"ridge{NASTY}")
        assert f"ridge{NASTY}" in page.locator("#images-status").inner_text()
        assert page.locator("#missing .failed").inner_text() == f"failed: {NASTY}"
        assert dialogs == []


def test_records_without_pictures_or_numbers_make_a_page(results: Results, browser: Browser, tmp_path: Path) -> None:
    failed = [replace(r, status="failed", reason="a fault", measurements={}) for r in results[:2]]
    for name, some in (("bare", results.records), ("failed", failed)):
        path = tmp_path / f"{name}.html"
        path.write_text(html_page(Results(some)))
        with opened(browser, path) as page:
            assert page.locator("#walls").count() == 0
            assert page.locator("#images").count() == (1 if name == "bare" else 0)


def test_a_run_keeps_pictures_of_its_edits(results: Results) -> None:
    def apart(one: Pixels, other: Pixels) -> float:
        return float(np.abs(one.astype(float) - other).mean())

    for record in results.done:
        store = results.store_of(record)
        assert store is not None
        images, before = originals(store, record), first_pictures(store, record)
        edits = store.edits(record.cell.id)
        words = {re.sub(r"[\d.]+", "N", kept.facts.words) for kept in edits}
        assert words == {"hue N, one object", "relight N, one object"}
        for kept in edits:
            assert 1 <= len(kept.facts.positions) == len(kept.edited) == len(kept.reconstructions) <= EDITED
            for position, edited, after in zip(kept.facts.positions, kept.edited, kept.reconstructions, strict=True):
                assert apart(images[position], edited) > 0
                if record.cell.method == "mean":
                    assert np.array_equal(before[position], after), "it sees nothing, and no format adds to it"
                if record.cell.row == "vit/embed/exact":
                    assert apart(after, edited) < apart(after, images[position]), (
                        "of the edited image, not of the other"
                    )


def test_the_best_and_worst_of_every_measure_are_pictured() -> None:
    up = measurement("up", [3.0, None, 1.0, 2.0, 5.0, 4.0, 0.0, 9.0])
    one = measurement("one", [None, 1.0, 0.1, None, 5.0, None, None, None], direction="one")
    assert ranking(up) == [7, 4, 5, 0, 3, 2, 6]
    assert ranking(one) == [1, 2, 4]
    assert ranking(measurement("no", status="skipped")) == []
    rows = best_and_worst({"up": up, "one": one})
    assert rows[:4] == [6, 7, 4, 1], "the very worst and best of each first"
    assert set(rows) == {6, 2, 3, 7, 4, 5, 1}
    many = {str(i): measurement(str(i), np.random.default_rng(i).random(500).tolist()) for i in range(40)}
    assert len(best_and_worst(many)) == MOST


def test_kept_pictures_come_back_as_they_were(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 4, 6, 3), dtype=np.uint8).repeat(20, 1).repeat(20, 2)
    store, record = Store(tmp_path), invented.record(best_and_worst=[5, 0, 9])
    store.best_and_worst_path(record.cell.id).write_bytes(paired_sheet(images, 255 - images))
    kept = kept_pictures(store, record)
    assert list(kept) == [5, 0, 9]
    for position, image in zip((5, 0, 9), images, strict=True):
        for picture, true in zip(kept[position], (image, 255 - image), strict=True):
            assert picture.shape == (80, 120, 3)
            assert np.abs(picture.astype(float) - true).mean() < 5
    large = rng.integers(0, 256, (2, 64, 640, 3), dtype=np.uint8)
    store.best_and_worst_path("b").write_bytes(paired_sheet(large, large))
    assert [[p.shape for p in line] for line in read_sheet(store.best_and_worst_path("b"))] == [[(16, 160, 3)] * 2] * 2


def test_the_first_pictures_of_a_cell_lose_nothing(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (5, 30, 17, 3), dtype=np.uint8)
    path = tmp_path / "a.webp"
    path.write_bytes(first_sheet(pictures))
    [line] = read_sheet(path)
    assert np.array_equal(np.stack(line), pictures)
    Image.fromarray(pictures[0]).save(path)
    assert read_sheet(path) == [], "a file that does not say what it shows"
    assert read_sheet(tmp_path / "none.webp") == []


def test_many_pictures_are_made_smaller() -> None:
    pictures = Pictures()
    noise = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
    assert [pictures.add(p) for p in (*noise, noise[0])] == [0, 1, 0]
    large, small = pictures.encode(), pictures.encode(sides=(32,))
    assert len(large) == len(small) == 2
    assert sum(map(len, small)) < sum(map(len, large)) / 4


def test_a_row_that_sees_the_image_does_not_set_the_scale_of_a_heat_map() -> None:
    oracle, worse, better = a_record("bicubic", shift=80), a_record("mean"), a_record("ridge", shift=1)
    oracle.cell.uses_image = True
    rows = rows_of([oracle, worse, better])
    [found] = _maps(rows, "psnr", [cell_text(row, measures_of(rows)["psnr"], {"psnr": {}}) for row in rows])
    [(_, cells)] = found["lines"]
    brightest, darkest = "#fde725", "#440154"
    assert [cell.fill for cell in cells] == [brightest, darkest, brightest]
