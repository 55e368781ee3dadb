"""The page of `jadeberta report` in a real browser: curves are drawn, react, print, and nothing is asked from anywhere."""

import base64
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from jadeberta.report.cli import main
from tests.report.browser import CHROMIUM, Browser, browser
from tests.report.test_report import HOSTILE, evaluation, event, lines, step

# Long: chromium is a package of 350 MB, which the tests of every commit do not install.
pytestmark = [pytest.mark.long, pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")]
CENTRE = "(e => { const r = e.getBoundingClientRect(); return [r.left, r.top, r.width, r.height] })"
LOSS = "document.querySelector('[data-chart=loss]')"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, and a page of one and a page of both."""
    directory = tmp_path_factory.mktemp("pages")
    for number, name in enumerate(("one", "two")):
        run = directory / name
        run.mkdir()
        rows = [step(n, 1e9 + 10 * n, n // 400, loss=8 - n / 400 + number, mfu=0.4, data_wait_s=0.1) for n in range(1, 1201)]
        lines(run / "metrics.jsonl", rows)
        events = [event("start", 1e9 + 4000 * n, n, world_size=8) | {"host": HOSTILE} for n in range(3)]
        events += [evaluation(1e9 + 10 * n, n, n // 400, wiki=n / 2000, web=n / 3000) for n in range(100, 1200, 100)]
        events += [event("skip", 1e9 + 5005, 1, step=500, reason=HOSTILE)]
        lines(run / "ledger.jsonl", sorted(events, key=lambda row: row["time"]))
        (run / "recipe.yaml").write_text(json.dumps({"training": {"max_steps": 2000, "lr": 1e-4}, HOSTILE: HOSTILE}))
    assert (
        main([str(directory / "one")])
        == main([str(directory / "one"), str(directory / "two"), "--out", str(directory / "both.html")])
        == 0
    )
    return directory


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("chromium")) as found:
        yield found


def drawn(chromium: Browser) -> dict[str, int]:
    """Number of colours on the canvas of each chart that is shown."""
    return chromium.ask(
        """Object.fromEntries([...document.querySelectorAll('.chart:not([hidden])')].map(f => {
        const c = f.querySelector('canvas'), d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data, seen = new Set();
        for (let i = 0; i < d.length; i += 4) if (d[i + 3]) seen.add(d[i] << 16 | d[i + 1] << 8 | d[i + 2]);
        return [f.dataset.chart, seen.size] }))"""
    )


@pytest.mark.parametrize(("width", "page"), [(1280, "one/report.html"), (390, "one/report.html"), (1280, "both.html")])
def test_every_chart_is_drawn_without_an_error_or_a_request(chromium: Browser, pages: Path, width: int, page: str) -> None:
    chromium.requests.clear()
    chromium.messages.clear()
    chromium.open(pages / page, width)
    charts = drawn(chromium)
    assert set(charts) == {"loss", "accuracy", "grad_norm", "lr", "tokens_per_second", "step_time", "waits"}
    assert min(charts.values()) > 5
    assert chromium.ask("document.documentElement.scrollWidth") <= width
    assert chromium.messages == [] and set(chromium.requests) - {"data:,"} == {(pages / page).as_uri()}
    assert chromium.ask("document.querySelectorAll('img, main script').length") == 0


def test_hover_zoom_axis_marks_filter_and_keyboard(chromium: Browser, pages: Path) -> None:
    chromium.open(pages / "one/report.html")
    chromium.ask(f"{LOSS}.scrollIntoView({{block: 'center'}})")
    left, top, width, height = chromium.ask(f"{CENTRE}({LOSS}.querySelector('.u-over'))")
    chromium.mouse("mouseMoved", left + width / 2, top + height / 2)
    chromium.settle()
    readout = chromium.ask(f"{LOSS}.querySelector('.legend').innerText")
    assert "loss 6." in readout.replace("\n", " ") and "step 60" in readout
    ticks = f"{LOSS}.querySelector('canvas').toDataURL()"
    before = chromium.ask(ticks)
    chromium.mouse("mousePressed", left + width / 4, top + height / 2, button="left", clickCount=1)
    chromium.mouse("mouseMoved", left + width / 2, top + height / 2, button="left", buttons=1)
    chromium.mouse("mouseReleased", left + width / 2, top + height / 2, button="left", clickCount=1)
    chromium.settle()
    zoomed = chromium.ask(ticks)
    assert zoomed != before
    chromium.ask("document.querySelector('[data-zoom=all]').click()")
    chromium.ask("document.activeElement.blur()")
    chromium.settle()
    chromium.ask("document.querySelector('#marks input').click()")
    chromium.settle()
    assert chromium.ask(ticks) not in (before, zoomed)
    chromium.ask("document.querySelector('[value=gpu_hours]').click()")
    assert "device-hours" in chromium.ask(f"{LOSS}.querySelector('.plot').getAttribute('aria-label')")
    chromium.ask(f"{LOSS}.querySelector('.plot').focus()")
    chromium.key("ArrowRight")
    chromium.settle()
    assert "device-hours" in chromium.ask("document.querySelector('#live').textContent")
    chromium.ask(f"{LOSS}.querySelector('details').open = true")
    chromium.settle()
    assert chromium.ask(f"{LOSS}.querySelectorAll('tbody tr').length") >= 990
    chromium.ask("(f => { f.value = 'max_steps'; f.dispatchEvent(new Event('input')) })(document.querySelector('.filter'))")
    assert chromium.ask("document.querySelectorAll('.settings details tbody tr:not([hidden])').length") == 1
    assert chromium.messages == []


def test_the_theme_changes_the_curves_and_a_print_is_light(chromium: Browser, pages: Path) -> None:
    chromium.open(pages / "one/report.html")
    colour = "getComputedStyle(document.body).backgroundColor"
    for _ in range(2):
        chromium.ask("document.querySelector('#theme').click()")
    dark = chromium.ask(f"{LOSS}.querySelector('canvas').toDataURL()")
    assert chromium.ask(colour) == "rgb(20, 23, 26)"
    pdf = base64.b64decode(chromium.call("Page.printToPDF", printBackground=True)["data"])
    assert pdf.startswith(b"%PDF") and len(zlib.compress(pdf)) > 20_000
    chromium.settle()
    assert chromium.ask(f"{LOSS}.querySelector('canvas').toDataURL()") == dark and chromium.messages == []
    chromium.ask("document.querySelector('#theme').click()")
    assert chromium.ask(colour) == "rgb(255, 255, 255)"


def test_hostile_texts_stay_texts(chromium: Browser, pages: Path) -> None:
    chromium.open(pages / "one/report.html")
    assert HOSTILE in chromium.ask("document.querySelector('.chronicle').textContent")
    assert chromium.ask("document.querySelectorAll('script').length") == 4
    assert chromium.messages == []
