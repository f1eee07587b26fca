"""What a reply moves on the page while it grows, in a real browser."""

from __future__ import annotations

import pytest
from browser import MARKS, Pages, text_of, wait_for_reply, wait_until_silent, write
from fake_model import FakeModel, held

pytestmark = MARKS
# How often the conversation's size is read from one frame to the next, and when the bars are drawn.
COUNT = """() => {
  const log = document.querySelector("#chat .log");
  const { get } = Object.getOwnPropertyDescriptor(Element.prototype, "scrollHeight");
  window.reads = [0];
  Object.defineProperty(log, "scrollHeight", {
    get() {
      window.reads[window.reads.length - 1] += 1;
      return get.call(this);
    },
  });
  const next = () => requestAnimationFrame(() => (window.reads.push(0), next()));
  next();
  window.draws = [];
  const draw = AnalyserNode.prototype.getByteFrequencyData;
  AnalyserNode.prototype.getByteFrequencyData = function (levels) {
    window.draws.push(performance.now());
    return draw.call(this, levels);
  };
}"""

# In the very frame in which a reply's row comes.
SCROLL_UP = """() => {
  const log = document.querySelector("#chat .log");
  const number = log.querySelectorAll(".bot-row").length + 1;
  new MutationObserver((_, observer) => {
    if (log.querySelectorAll(".bot-row").length < number) return;
    observer.disconnect();
    log.scrollTop = 0;
    requestAnimationFrame(() => requestAnimationFrame(() => (window.scrolled = true)));
  }).observe(log, { childList: true, subtree: true });
}"""


@pytest.fixture(scope="module")
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture(autouse=True)
def as_it_was(model: FakeModel) -> None:
    model.__init__(num_frames=160, frame_seconds=0.001)  # 8 s, made at once


def test_a_replys_text_grows_with_its_sound(open_page: Pages):
    page = open_page()
    write(page, "你好")
    page.wait_for_function("window.pagePlayer.isSpeaking()")
    page.wait_for_selector(".bot-row .actions")  # all of it has come
    before = 0
    for _ in range(2):  # a character a frame, 20 a second
        page.wait_for_function(f"""() => {{
          const {{ length }} = document.querySelector(".bot-row .text").textContent;
          const said = 20 * window.pagePlayer.heard()?.seconds;
          return length > {before} && length < 155 && Math.abs(length - said) <= 4;
        }}""")
        before = len(text_of(page))
    wait_until_silent(page)
    page.wait_for_function("document.querySelector('.bot-row .text').textContent.length == 160")


def test_of_a_stopped_reply_no_more_is_seen_than_was_heard(open_page: Pages, model: FakeModel):
    model.num_frames, model.frame_seconds = 400, 0.02  # it still goes on when it is stopped
    page = open_page()
    write(page, "你好")
    page.wait_for_function("document.querySelector('.bot-row .text')?.textContent.length > 10")
    page.evaluate("""() => {
      const { turn } = window.pagePlayer.heard();
      window.pagePlayer.position = () => 0.5;
      window.pageAsk.stop({ turn, seconds: 999 }); // it ends, and how much was heard follows
    }""")
    page.wait_for_selector(".bot-row .cut")
    assert len(text_of(page)) == 10


def test_who_reads_what_was_said_is_left_there(open_page: Pages, model: FakeModel):
    page = open_page(height=500)
    for number in range(1, 4):
        write(page, "你好")
        wait_for_reply(page, number)
        page.keyboard.press("Escape")
    page.wait_for_function("document.querySelector('#chat .log').scrollTop > 200")
    page.evaluate(SCROLL_UP)
    with held(model):
        write(page, "你好")
        page.wait_for_function("window.scrolled")
    page.wait_for_function("window.pagePlayer.heard()?.seconds > 0.5")
    wait_for_reply(page, 4)
    assert page.evaluate("document.querySelector('#chat .log').scrollTop") == 0
    page.keyboard.press("Escape")
    write(page, "你好")  # who says something sees it
    page.wait_for_function("""() => {
      const log = document.querySelector("#chat .log");
      return log.scrollHeight - log.scrollTop - log.clientHeight < 5;
    }""")


def test_a_growing_reply_is_little_work(open_page: Pages, model: FakeModel):
    model.frame_seconds = 0.02
    page = open_page()
    page.evaluate(COUNT)
    write(page, "你好")
    wait_for_reply(page)
    wait_until_silent(page)
    reads, draws = page.evaluate("[window.reads, window.draws]")
    assert sum(reads) > 0 and max(reads) <= 2  # after a scroll, and before the next one
    assert len(draws) > 5
    assert min(after - before for before, after in zip(draws, draws[1:])) > 70
