"""The page in windows of every size, on paper, in the reader's own colours, and without motion."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from browser import MARKS, Pages, attach_recording, playwright, wait_for_reply, write
from fake_model import FakeModel
from PIL import Image

pytestmark = MARKS
WIDTHS = 320, 360, 380, 480, 639, 640, 768, 800, 834, 899, 900, 1000, 1023, 1024, 1280
# How far the buttons stand out of their row, the card is scrolled, and the page is too wide, once
# the last button is focused; and the buttons that are cut off.
OVER = """() => {
  const [card, keys] = ["#card", ".keys"].map((name) => document.querySelector(name));
  const edge = card.getBoundingClientRect().right;
  document.querySelector("#send").focus();
  const isCut = (each) => each.getBoundingClientRect().right > edge;
  return [
    keys.scrollWidth - keys.clientWidth, card.scrollLeft,
    document.documentElement.scrollWidth - innerWidth,
    ...[...card.querySelectorAll("button")].filter(isCut).map((each) => each.id || each.className),
  ];
}"""
BOTTOMS = """() => {
  const bottom = (name) => document.querySelector(name).getBoundingClientRect().bottom + scrollY;
  return [bottom("#send"), bottom("#card"), document.querySelector("#chat").clientHeight];
}"""
# Those of page.css that Gradio has put where they match nothing.
LOST_RULES = """() => {
  const rules = [...document.styleSheets].flatMap(({ cssRules }) => [...cssRules]);
  const confined = rules.filter((rule) => rule.media).flatMap(({ cssRules }) => [...cssRules]);
  const lost = /\\.contain +(\\.gradio-container|:root|body|html|footer)(?![-\\w])/;
  const names = confined.flatMap((rule) => rule.selectorText?.split(",") ?? []);
  return names.filter((name) => lost.test(name));
}"""
BARE_BUTTONS = """() => [...document.querySelectorAll("main button, a.action")]
  .filter((each) => each.checkVisibility({ visibilityProperty: true }) && each.offsetWidth > 1)
  .filter((each) => getComputedStyle(each).borderTopWidth === "0px")
  .map((each) => each.className)"""
SHOWN_CONTROLS = """() => [...document.querySelectorAll("button, textarea, a, input")]
  .filter((each) => each.checkVisibility() && each.offsetWidth > 1)
  .map((each) => each.className).filter((name) => name !== "seed")"""


@pytest.fixture(scope="module")
def model() -> FakeModel:
    return FakeModel(num_frames=8)


def resize(page: playwright.Page, width: int, height: int) -> None:
    """Give the window another size, and wait until the page has taken it."""
    page.set_viewport_size({"width": width, "height": height})
    page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 60)))")


@pytest.mark.parametrize("locale", ["zh-CN", "en-US"])
def test_what_one_answers_with_has_room_in_every_width(open_page: Pages, locale: str):
    page = open_page(locale)
    found = {}
    for state in "writing", "hands-free":
        if state == "hands-free":
            page.click("#hands-free")
            page.wait_for_selector("#hands-free[data-state=listening]")
        for width in WIDTHS:
            resize(page, width, 900)
            found[state, width] = page.evaluate(OVER)
    page.keyboard.press("Escape")
    assert {key: over for key, over in found.items() if over != [0, 0, 0]} == {}


@pytest.mark.parametrize("locale", ["zh-CN", "en-US"])
def test_what_one_answers_with_is_in_sight_in_a_short_window(open_page: Pages, locale: str):
    page = open_page(locale)
    write(page, "你好")
    wait_for_reply(page)
    for width, height in (844, 390), (667, 375), (568, 320), (640, 400), (1280, 510), (320, 568):
        resize(page, width, height)
        send, card, log = page.evaluate(BOTTOMS)
        assert send < card <= height and log > 110, (width, height)
        assert page.evaluate(OVER) == [0, 0, 0]
    attach_recording(page)
    page.fill("#text", "好\n" * 9)
    for width, height in (844, 390), (320, 256), (1280, 510), (360, 500):
        resize(page, width, height)
        send, card, log = page.evaluate(BOTTOMS)
        assert send < card and log > 40, (width, height)  # at worst, the page scrolls to it


def test_what_depends_on_the_window_reaches_what_it_is_about(open_page: Pages):
    page = open_page(width=390)
    assert page.evaluate(LOST_RULES) == []
    padding = "getComputedStyle(document.querySelector('.gradio-container .main')).paddingLeft"
    assert page.evaluate(padding) == "10px"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_whole_conversation_is_printed_and_no_controls(open_page: Pages, theme: str):
    page = open_page(height=500, theme=theme)
    for number in range(1, 13):
        write(page, "你好")
        wait_for_reply(page, number)
    page.click("#chat .compare >> nth=0")
    pages = len(re.findall(rb"/Type /Page\b", page.pdf()))
    assert pages >= 2
    page.emulate_media(media="print")
    assert page.evaluate(SHOWN_CONTROLS) == []
    assert not page.is_visible("[role=tablist]")
    assert page.is_visible("#chat .row >> nth=0") and page.is_visible("#chat .row >> nth=-1")
    cut = """() => {
      const cut = [];
      for (let at = document.querySelector("#chat .log"); at; at = at.parentElement)
        if (getComputedStyle(at).overflowY !== "visible") cut.push(at.className);
      return cut;
    }"""
    assert page.evaluate(cut) == []
    colours = """["color", "backgroundColor"].map((name, i) =>
      getComputedStyle(document.querySelector(["#chat .text", "body"][i]))[name])"""
    assert page.evaluate(colours) == ["rgb(0, 0, 0)", "rgb(255, 255, 255)"]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_all_is_seen_in_the_readers_own_colours(open_page: Pages, theme: str):
    page = open_page(theme=theme)
    page.emulate_media(color_scheme=theme, forced_colors="active")
    assert page.evaluate(BARE_BUTTONS) == []
    example = page.locator(".examples.sounds button").first.bounding_box()
    assert contrast(page, {**example, "width": 24}) > 100  # its mark, before what it is called
    write(page, "你好")
    wait_for_reply(page)
    assert page.evaluate(BARE_BUTTONS) == []
    for name in ".upload i", ".record i", "#hands-free i", ".sound .icon", ".action.copy svg":
        assert contrast(page, page.locator(name).first.bounding_box()) > 100, name
    backgrounds = """() => [...document.querySelectorAll("[role=tablist] [role=tab]")]
      .map((tab) => [tab.ariaSelected, getComputedStyle(tab).backgroundColor])"""
    (_, chosen), *others = page.evaluate(backgrounds)
    assert all(background != chosen for _, background in others[:2])
    tones = "[...document.querySelectorAll('#style label')].map((x) => getComputedStyle(x).color)"
    assert len(set(page.evaluate(tones))) == 2  # the chosen one's, and the others'


def contrast(page: playwright.Page, box: dict[str, float]) -> int:
    """Between the lightest and the darkest pixel of a part of the window, 255 at most."""
    inner = {
        "x": box["x"] + 3,
        "y": box["y"] + 3,
        "width": box["width"] - 6,
        "height": box["height"] - 6,
    }
    grey = np.asarray(Image.open(io.BytesIO(page.screenshot(clip=inner))).convert("L"))
    return int(grey.max()) - int(grey.min())


def test_nothing_moves_for_who_wants_less_motion(open_page: Pages, model: FakeModel):
    page = open_page()
    page.emulate_media(reduced_motion="reduce")
    tab = "document.querySelector('#compare-tab-button').click()"
    moving = "document.getAnimations().map((each) => each.effect.target.className)"
    assert page.evaluate(f"({tab}, new Promise(requestAnimationFrame).then(() => {moving}))") == []
    page.click("#talk-tab-button")
    model.num_frames = 80
    write(page, "你好")
    page.wait_for_function("window.pagePlayer.isSpeaking()")
    shapes = page.evaluate("""async () => {
      const [bar, drawn, seen] = [document.querySelector(".bars i"), new Set(), new Set()];
      while (drawn.size < 3) {
        await new Promise(requestAnimationFrame);
        drawn.add(bar.style.transform);
        if (bar.checkVisibility()) seen.add(getComputedStyle(bar).transform);
      }
      return [...seen];
    }""")
    assert shapes == ["matrix(1, 0, 0, 0.6, 0, 0)"]
    page.keyboard.press("Escape")
    wait_for_reply(page)


def test_the_focus_of_a_tab_is_seen_whole(open_page: Pages):
    page = open_page()
    page.focus("#talk-tab-button")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    inside = """() => {
      const tab = document.activeElement;
      const { outlineStyle, outlineWidth, outlineOffset } = getComputedStyle(tab);
      const [outer, inner] = [tab.parentElement, tab].map((each) => each.getBoundingClientRect());
      const reach = parseFloat(outlineWidth) + parseFloat(outlineOffset);
      return [outlineStyle, inner.top - reach >= outer.top, inner.left - reach >= outer.left];
    }"""
    assert page.evaluate(inside) == ["solid", True, True]
