"""The report in a real browser: what it shows at every width, and what its gallery does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline import finished_run
from tests.pipeline.page import browser
from tests.pipeline.page.browser import Tab
from tgo.pipeline.page import report
from tgo.pipeline.training_log import sample_strips

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser.CHROMIUM is None, reason="no chromium on this machine"),
]
READY = "document.body.dataset.gallery === 'ready'"
SHOWN = "document.querySelectorAll('.pairs .card').length"
COUNT = "document.querySelector('.count').textContent"
PROBE = """(() => {
  for (const details of document.querySelectorAll("details")) details.open = true;
  const wide = document.documentElement.clientWidth;
  return {
    overflow: document.documentElement.scrollWidth - wide,
    cut: [...document.querySelectorAll("main *, header *")].filter(e =>
      e.getBoundingClientRect().right > wide + 1
      && !e.closest(".scroll, pre, .hidden, svg")).length,
    broken: [...document.images].filter(i => !i.naturalWidth || !i.alt).length,
    flat: [...document.querySelectorAll("figure > svg")].filter(
      s => s.getBoundingClientRect().height < 60).length,
    unnamed: [...document.querySelectorAll("canvas, input, select, button")].filter(e =>
      !(e.getAttribute("aria-label") || e.textContent.trim() || e.closest("label"))).length,
  };
})()"""
CONTRAST = """(() => {
  const parse = c => c.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const light = c => parse(c).map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = light(getComputedStyle(document.body).backgroundColor);
  const faint = new Set();
  for (const e of document.querySelectorAll("main *, header *")) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!own || e.closest(".hidden")) continue;
    const style = getComputedStyle(e), ink = light(e.closest("svg") ? style.fill : style.color);
    const contrast = (Math.max(ink, ground) + .05) / (Math.min(ink, ground) + .05);
    if (contrast < 4.5) faint.add(`${e.tagName}.${e.getAttribute("class")} ${style.fill}`);
  }
  return [...faint];
})()"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser.tab(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        chosen = finished_run.make_settings(evaluate={"prompts": 12})
        finished_run.write_run(chosen, gain=0.1)
        return (root / report.run(chosen)).resolve()


@pytest.mark.parametrize("width", [390, 820, 1280, 1920])
def test_everything_is_shown_at_every_width(tab: Tab, page: Path, width: int) -> None:
    tab.open(page, width)
    tab.wait(READY)
    assert tab.run(PROBE) == {"overflow": 0, "cut": 0, "broken": 0, "flat": 0, "unnamed": 0}
    assert tab.run(CONTRAST) == []
    assert tab.complaints == []


def test_text_stands_out_in_the_dark_theme(tab: Tab, page: Path) -> None:
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    tab.call("Emulation.setEmulatedMedia", features=dark)
    tab.open(page, 1280)
    tab.wait(READY)
    assert tab.run(CONTRAST) == []
    tab.call("Emulation.setEmulatedMedia", features=[])


def test_filters_by_mouse_and_keyboard_count_and_are_kept_in_the_address(
    tab: Tab, page: Path
) -> None:
    tab.open(page, 1280)
    tab.wait(READY)
    assert tab.run(COUNT).startswith("72 of 72 pairs: PickScore ")
    assert tab.run(SHOWN) == 12
    tab.click(".filters [name=text]")
    for letter in "blue":
        tab.key(letter, letter)
    found = int(tab.run(COUNT).split(" ", 1)[0])
    assert 0 < found < 72
    assert tab.run(
        "[...document.querySelectorAll('.pairs .prompt')]"
        ".every(p => p.textContent.includes('blue'))"
    )
    tab.run(
        "(() => { const s = document.querySelector('[name=set]'); s.value = 'hard';"
        "s.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )
    address = tab.run("location.hash")
    assert set(address.split("&")) == {"#pictures", "set=hard", "text=blue"}
    told = tab.run(COUNT)
    tab.open(page, 1280, fragment=address)
    tab.wait(READY)
    assert tab.run(COUNT) == told
    tab.click(".filters [type=reset]")
    tab.wait(f"{COUNT}.startsWith('72 of 72')")


def test_sorting_puts_the_biggest_change_first(tab: Tab, page: Path) -> None:
    tab.open(page, 1280, fragment="#pictures&sort=loss")
    tab.wait(READY)
    numbers = tab.run(
        "[...document.querySelectorAll('.pairs .numbers span:first-child')].map(e => e.textContent)"
    )
    changes = [float(after) - float(before) for before, after in (n.split(" → ") for n in numbers)]
    assert changes == sorted(changes)
    assert changes[0] < 0


def test_slider_and_full_size_by_keyboard_and_mouse(tab: Tab, page: Path) -> None:
    tab.open(page, 1280)
    tab.wait(READY)
    cut = "document.querySelector('.compare').style.getPropertyValue('--cut')"
    tab.run("document.querySelector('.compare input').focus()")
    tab.key("ArrowRight")
    assert tab.run(cut) == "51%"
    tab.key("Enter")
    tab.wait("document.querySelector('dialog').open")
    first = tab.run("document.querySelector('dialog .prompt').textContent")
    assert tab.run("document.querySelectorAll('dialog tbody tr').length") == 8
    fits = "(dialog => dialog.scrollWidth <= dialog.clientWidth)(document.querySelector('dialog'))"
    assert tab.run(fits)
    for width in (390, 820):
        tab.resize(width)
        assert tab.run(fits), width
    tab.resize(1280)
    tab.click("dialog [name=next]")
    assert tab.run("document.querySelector('dialog .meta').textContent")
    tab.key("Escape")
    tab.wait("!document.querySelector('dialog').open")
    tab.click(".compare")
    tab.wait("document.querySelector('dialog').open")
    assert tab.run("document.querySelector('dialog .prompt').textContent") == first
    assert tab.complaints == []


def test_sample_images_of_training_by_step(
    tab: Tab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    from tgo.pipeline import layout

    monkeypatch.chdir(tmp_path)
    chosen = finished_run.make_settings(evaluate={"prompts": 2}, score={"prompts": 16})
    finished_run.write_run(chosen)
    sample_strips.describe(layout.SAMPLES, {"prompts": ["a", "b"]})
    for step in (0, 100, 200):
        sample_strips.write(layout.SAMPLES, step, np.full((2, 8, 8, 3), step, np.uint8))
    tab.open(report.run(chosen), 1280)
    tab.wait(READY)
    shown = "[...document.querySelectorAll('#progress figure.shown')].map(f => f.dataset.step)"
    assert tab.run(shown) == ["200"]
    tab.run("document.querySelector('#progress input').focus()")
    tab.key("ArrowLeft")
    assert tab.run(shown) == ["100"]


def test_printed_it_has_few_pages(tab: Tab, page: Path) -> None:
    tab.open(page, 1280)
    tab.wait(READY)
    assert len(re.findall(rb"/Type\s*/Page\b", tab.pdf())) <= 6


def test_the_gallery_data_cannot_end_its_element(page: Path) -> None:
    text = page.read_text()
    found = re.search(r'id="gallery-data">(.*?)</script>', text, re.S)
    assert found
    assert "<" not in found.group(1)
    assert sum(json.loads(found.group(1))["sizes"]) == 72
