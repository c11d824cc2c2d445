"""The page to look at reconstructions with, in a real browser: every pixel and number is that of the records, it works
by keyboard and on a phone, its address is what it shows, and it links to the report and back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import launched, opened
from invented import measurement, record
from playwright.sync_api import Browser, Page

from invsuite.errors import UsageError
from invsuite.report.explore import explore_page
from invsuite.report.figures import Choice
from invsuite.report.html import MAP, html_page
from invsuite.report.results import Results
from invsuite.results.pictures import Pixels, first_sheet
from invsuite.results.store import Store

SIDE, PHOTOS = 24, 3
STAGES, METHODS = ("embed", "block03"), ("ridge", "mean<b>&")
EDIT = "hue 0.333, one object"


def noise(seed: int, count: int = PHOTOS) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


def smooth(seed: int, count: int) -> Pixels:
    """Pictures that lossy WebP hardly changes."""
    return (
        np.random.default_rng(seed).integers(0, 256, (count, 1, 1, 3), dtype=np.uint8).repeat(SIDE, 1).repeat(SIDE, 2)
    )


ORIGINALS, EDITED, AFTER = noise(0), noise(90, 2), noise(91, 2)


def reconstructions(stage: int, method: int) -> Pixels:
    return noise(1 + 2 * stage + method)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Two stages and two methods of invented numbers and pictures; one cell failed, one has an edit of two photos."""
    store, records = Store(tmp_path_factory.mktemp("out") / "records" / "tiny"), []
    for i, stage in enumerate(STAGES):
        for j, method in enumerate(METHODS):
            values = [20.0 + 10 * i + j, 21.5 + j, 22.0]
            failed = (i, j) == (1, 1)
            measured = [measurement("delta_e", [1.0, 2.0, 3.0]), measurement("psnr", values)]
            one = (
                record(stage=stage, method=method, status="failed" if failed else "ok")
                if failed
                else record(stage=stage, method=method, measurements=measured, images=PHOTOS)
            )
            one.cell.position, one.cell.method_position = i, j
            one.cell.id = f"vit-{stage}-{j}-s0-0123456789ab"
            store.write(one)
            records.append(one)
            if not failed:
                store.first_path(one.cell.id).write_bytes(first_sheet(reconstructions(i, j)))
    store.originals_path("vit").write_bytes(first_sheet(ORIGINALS))
    store.write_edit(records[0].cell.id, ("hue 0.33333", "object"), [0, 2], EDITED, AFTER)
    return Results(records, stores={"tiny": store})


@pytest.fixture(scope="module")
def path(results: Results) -> Path:
    """The page, beside a report."""
    store = results.stores["tiny"]
    assert store is not None
    folder = store.folder.parent.parent
    (folder / "tiny.html").write_text(html_page(results))
    return results.explore(folder)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as found:
        yield found


def show(page: Page, address: str) -> None:
    """Go to an address of the page and wait until its pictures are drawn."""
    page.evaluate("async hash => { location.hash = hash; readAddress(); await show(); }", address)


def colour(page: Page, canvas: str, x: int, y: int) -> list[int]:
    script = (
        "([id, x, y]) => [...document.getElementById(id).getContext('2d').getImageData(x, y, 1, 1).data.slice(0, 3)]"
    )
    return list(page.evaluate(script, [canvas, x, y]))


def cells(page: Page, table: str) -> list[list[str]]:
    rows = page.locator(f"#{table} tbody tr").all()
    return [[text.strip() for text in row.locator("th, td").all_inner_texts()] for row in rows]


def test_pixels_and_numbers_are_those_of_the_records(browser: Browser, path: Path) -> None:
    with opened(browser, path) as page:
        show(page, "stage=block03&method=ridge&photo=scene-1&x=5&y=7&wipe=25&scale=0.5")
        a, b = ORIGINALS[1], reconstructions(1, 0)[1]
        assert colour(page, "first", 5, 7) == a[7, 5].tolist()
        assert colour(page, "second", 5, 7) == b[7, 5].tolist()
        assert colour(page, "wiped", 5, 3) == a[3, 5].tolist(), "a quarter of it is the original"
        assert colour(page, "wiped", 6, 3) == b[3, 6].tolist()
        difference = np.abs(a[7, 5].astype(float) - b[7, 5]).mean() / 255
        shade = MAP[min(round(difference / 0.5 * 255), 255)]
        assert colour(page, "difference", 5, 7) == [int(shade[i : i + 2], 16) for i in (1, 3, 5)]
        expected = [
            *([f"{v:.3f}" for v in c[7, 5] / 255] for c in (a, b)),
            [f"{v:+.3f}" for v in (b[7, 5] / 255.0 - a[7, 5] / 255.0)],
        ]
        assert [row[1:] for row in cells(page, "values")] == expected
        [line] = cells(page, "measures")
        assert (line[:3], line[4]) == (["PSNR (dB)", "21.50", "24.50"], "3")
        assert "PSNR 21.50 dB (n = 1)" in page.locator("#status").inner_text().replace("\xa0", " ")
        page.locator("#more").check()
        assert [row[1] for row in cells(page, "measures")] == ["21.50", "2.0"]
        page.locator("#second").click(position={"x": 1, "y": 1})
        assert page.locator("#where").inner_text() == "At x 0, y 0 of 24 by 24 pixels"


def test_everything_is_chosen_by_keyboard_and_its_address_shows_it_again(browser: Browser, path: Path) -> None:
    with opened(browser, path) as page:
        show(page, "stage=embed&method=ridge")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the pictures"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "pictures"
        for key in ("e", "c", "c", "p", "p", "d", "w", "ArrowRight", "ArrowRight", "Shift+ArrowUp"):
            page.keyboard.press(key)
        page.wait_for_url(re.compile("wipe=55&x=14&y=4"))
        assert page.locator("#spoken").inner_text().startswith("x 14, y 4. reconstruction: ")
        address = page.evaluate("location.hash.slice(1)")
        assert page.locator("#stage").get_attribute("aria-valuetext") == "embed"
        page.keyboard.press("s")
        assert page.locator("#stage").get_attribute("aria-valuetext") == "block03"
        page.locator("#stage").focus()
        page.keyboard.press("ArrowLeft")
        assert page.locator("#stage-shown").inner_text() == "embed (1 of 2)"
    with opened(browser, path) as page:
        show(page, address)
        chosen = {
            name: page.locator(f"#{name}").input_value() for name in ("method", "edit", "compare", "scale", "wipe")
        }
        assert chosen == {"method": "ridge", "edit": EDIT, "compare": "reconstructions", "scale": "0.5", "wipe": "55"}
        assert page.locator("#photo-shown").inner_text() == "scene-2"
        assert colour(page, "first", 3, 3) == reconstructions(0, 0)[2, 3, 3].tolist()
        assert colour(page, "second", 3, 3) == AFTER[1, 3, 3].tolist()
        show(page, address.replace("compare=reconstructions", "compare=images"))
        assert colour(page, "second", 3, 3) == EDITED[1, 3, 3].tolist()


def test_what_is_not_there_is_said(browser: Browser, path: Path) -> None:
    with opened(browser, path) as page:
        for address, why in (
            ("stage=block03&method=mean%3Cb%3E%26", "failed: it broke"),
            (
                f"stage=embed&method=ridge&photo=scene-1&edit={EDIT}",
                "no picture of this edit of this photo is kept of this row",
            ),
        ):
            show(page, address)
            assert page.locator("#why").inner_text() == why
            assert page.locator("#difference").is_hidden()
            assert why in page.locator("#status").inner_text()
        show(page, "model=none&stage=none&method=&scale=7&wipe=900&x=-4&y=99")
        assert page.locator("#why").is_hidden()
        assert page.locator("#where").inner_text() == "At x 0, y 23 of 24 by 24 pixels"


def test_a_phone_and_a_screen_reader(browser: Browser, path: Path) -> None:
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "color_scheme": "dark"}
    with opened(browser, path, **phone) as page:
        show(page, "")
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        tops = page.locator("canvas").evaluate_all("all => all.map(each => each.getBoundingClientRect().top)")
        assert tops[0] == tops[1] < tops[2] == tops[3], "two and two side by side"
        page.evaluate("scrollTo(0, document.body.scrollHeight / 3)")
        assert page.locator("#stage").evaluate("each => each.getBoundingClientRect().top") >= 0, "it stays in sight"
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert max(int(part) for part in background.strip("rgb()").split(",")) < 60
        page.locator("#second").tap(position={"x": 100, "y": 50})
        assert page.locator("#where").inner_text() != "At x 12, y 12 of 24 by 24 pixels"
        unnamed = page.evaluate(
            """() => ({
                controls: [...document.querySelectorAll('select, input')].filter(each => !each.labels.length).length,
                pictures: [...document.querySelectorAll('img')].filter(each => !each.alt).length,
                canvases: [...document.querySelectorAll('canvas')].filter(each => !each.ariaLabel).length,
                heads: [...document.querySelectorAll('th')].filter(each => !each.scope).length,
            })"""
        )
        assert unnamed == dict.fromkeys(("controls", "pictures", "canvases", "heads"), 0)


def test_it_links_to_the_row_of_the_report_and_to_the_record_and_back(browser: Browser, path: Path) -> None:
    with opened(browser, path) as page:
        show(page, "stage=embed&method=mean%3Cb%3E%26")
        row, kept = page.locator("#links a").all()
        target = path.parent / str(kept.get_attribute("href"))
        assert target.read_text().count('"vit-embed-1-s0-0123456789ab"') == 1
        address = str(row.get_attribute("href"))
    report, _, anchor = address.partition("#")
    with opened(browser, path.parent / report) as page:
        line = page.evaluate("id => document.getElementById(id).dataset", anchor)
        assert (line["stage"], line["method"]) == ("embed", "mean<b>&")
        assert page.locator("#explore").get_attribute("href") == path.name


def test_pictures_are_lossy_or_smaller_only_where_they_must_be(results: Results) -> None:
    whole, lossy, small = (explore_page(results, megabytes=megabytes) for megabytes in (1.0, 0.03, 0.001))
    assert "The 16 pictures of this page take 0.0 MB and are exactly those beside the records" in whole
    assert re.search(r"lossy here, WebP of quality 9\d: a value is off by 0.\d+ on average and by at most 0.\d+", lossy)
    assert "made smaller to at most 64 pixels" in small
    assert len(whole) > len(lossy) > len(small)


def test_photos_are_chosen_by_name(results: Results) -> None:
    one = explore_page(results, Choice(names=("scene-2",)))
    assert '"photos": ["scene-2"]' in one
    with pytest.raises(UsageError, match="unknown photo with pictures 'none'"):
        explore_page(results, Choice(names=("none",)))


def test_without_pictures_the_page_says_what_to_do(results: Results, browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "bare.html").write_text(explore_page(replace(results, stores={})))
    with opened(browser, tmp_path / "bare.html") as page:
        assert "invsuite bench --refresh" in page.locator("#empty").inner_text()
