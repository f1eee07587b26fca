"""The page with a small Qwen2.5-Omni in a browser: voices, pictures, videos, a system prompt."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from browser import (
    MARKS,
    Pages,
    attach_recording,
    bubbles,
    playwright,
    wait_for_reply,
    write,
)
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from omni_small import END, PAD
from omni_talk import LONG, picture
from test_omni_looking import write_video

import app
from generate import generate_long
from models.audio import to_pcm16
from models.omni.conversation import Conversation
from models.omni.generation import CodeSteps, TextSteps
from models.omni.sampling import FlowConfig
from models.omni.speech_model import OmniModel
from page.limits import Limits
from page.session import Session

axe = pytest.importorskip("axe_playwright_python.sync_playwright")
pytestmark = MARKS
SEED = 3
PATIENCE = 240  # seconds
LIMITS = Limits(reply_seconds=2)


@pytest.fixture(scope="module")
def model(omni: OmniModel) -> Iterator[OmniModel]:
    """Sound of fewer evaluations and blocks than the published ones, which take the longest."""
    vocoder = omni.checkpoint.token2wav.code2wav_bigvgan_model
    smallest = vocoder.resblocks[:: vocoder.num_residual_blocks]
    with pytest.MonkeyPatch.context() as patch:
        sampling = dataclasses.replace(omni.sampling, flow=FlowConfig(num_steps=2))
        patch.setattr(omni, "sampling", sampling)
        patch.setitem(vocoder._modules, "resblocks", smallest)
        patch.setattr(vocoder, "num_residual_blocks", 1)
        yield omni


@pytest.fixture(autouse=True)
def nobody_before(ours: tuple[app.Page, str]) -> None:
    ours[0].sessions._sessions.clear()


@pytest.fixture
def shown(tmp_path: Path) -> Path:
    picture().save(tmp_path / "shown.png")
    return tmp_path / "shown.png"


def session_of(page: app.Page) -> Session:
    (session,) = page.sessions._sessions.values()
    return session


def attach(page: playwright.Page, path: Path, kind: str) -> None:
    page.set_input_files("#composer input[type=file]", path)
    page.wait_for_selector(f"#composer .attached[data-kind={kind}]:not([hidden])")


def set_seed(page: playwright.Page, seed: int = SEED) -> None:
    page.click("#advanced button")
    page.fill("#seed input", str(seed))
    page.press("#seed input", "Tab")


def begin_anew(page: playwright.Page) -> None:
    page.click("#new")
    page.wait_for_function("!document.querySelector('#chat .row')")


def sound_of(session: Session) -> np.ndarray:
    return soundfile.read(session.turns[-1].reply_audio, dtype="int16")[0]


def test_a_voice_is_chosen(open_page: Pages, ours: tuple[app.Page, str], omni: OmniModel):
    page = open_page("en-US")
    assert page.query_selector("#style") is None  # it has voices and no tones
    assert "Chinese" not in page.inner_text("header") + page.inner_text("#chat .lead")
    set_seed(page)
    sounds = {}
    for voice in omni.voices:
        page.click(f"#voice label:has-text('{voice}')")
        write(page, LONG)
        wait_for_reply(page)
        sounds[voice] = sound_of(session_of(ours[0]))
        begin_anew(page)
    assert not np.array_equal(sounds["Chelsie"], sounds["Ethan"])
    chunks = generate_long(
        omni,
        text=LONG,
        voice="Ethan",
        sampling=dataclasses.replace(omni.sampling, seed=SEED),
        max_new_tokens=round(LIMITS.reply_seconds * omni.frame_rate),
    )
    wave = np.concatenate([chunk.new_audio for chunk in chunks])
    np.testing.assert_array_equal(sounds["Ethan"], to_pcm16(wave))


def test_pictures_are_shown_and_answered_over_several_turns(
    open_page: Pages, ours: tuple[app.Page, str], shown: Path
):
    page = open_page("en-US")
    attach(page, shown, "image")
    page.click("#send")
    wait_for_reply(page)
    assert page.query_selector("#composer .attached:not([hidden])") is None
    write(page, LONG)
    wait_for_reply(page, 2)
    attach(page, shown, "image")
    attach_recording(page)
    write(page, "what is it?")
    wait_for_reply(page, 3)
    pictures = "[...document.querySelectorAll('#chat .user-row img')].map((x) => x.naturalWidth)"
    assert page.evaluate(pictures) == [90, 90]
    session = session_of(ours[0])
    first, second, third = session.conversation.turns
    kinds = [sum(segment.media is not None for segment in t.segments) for t in (first, second)]
    assert kinds == [1, 0]
    assert sum(segment.media is not None for segment in third.segments) >= 2  # seen and heard
    page.click(".bot-row .again >> nth=0")
    wait_for_reply(page, 4)
    assert len(bubbles(page, "user")) == 3
    page.reload()
    page.wait_for_function(f"JSON.stringify({pictures}) === '[90,90]'")


def test_a_picture_goes_with_what_is_said_hands_free(
    open_page: Pages, ours: tuple[app.Page, str], shown: Path
):
    page = open_page("en-US")
    attach(page, shown, "image")
    page.click("#hands-free")
    wait_for_reply(page)
    page.keyboard.press("Escape")
    (turn, *_) = session_of(ours[0]).turns
    assert turn.image and Path(turn.image).name == "shown.png" and turn.audio_seconds > 1
    segments = session_of(ours[0]).conversation.turns[0].segments
    assert sum(segment.media is not None for segment in segments) >= 2  # seen and heard
    assert page.query_selector("#composer .attached:not([hidden])") is None
    assert page.query_selector("#chat .user-row img")


def test_what_cant_be_seen_is_told_and_stays(open_page: Pages, tmp_path: Path):
    page = open_page()
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nonsense")
    attach(page, tmp_path / "broken.png", "image")
    page.click("#send")
    page.wait_for_selector("#status .fault:has-text('broken.png 无法作为图片读取')")
    assert page.query_selector("#composer .attached[data-kind=image]:not([hidden])")
    assert bubbles(page, "user") == []
    page.click("#composer .attached[data-kind=image] .remove")
    write(page, LONG)
    wait_for_reply(page)


@pytest.mark.parametrize("sound", [True, False])
def test_a_video_is_answered(
    open_page: Pages, ours: tuple[app.Page, str], tmp_path: Path, sound: bool
):
    page = open_page("en-US")
    attach(page, write_video(tmp_path / "shown.mp4", 1.0, sound), "video")
    page.wait_for_selector("#composer .attached video", state="hidden")
    page.click("#send")
    wait_for_reply(page)
    (turn,) = session_of(ours[0]).turns
    assert turn.video and Path(turn.video).name == "shown.mp4" and turn.reply
    # Its pictures are of a kind that the browser can't show, whether it hears the sound or not.
    assert page.wait_for_selector("#chat .user-row .gone:has-text('video')")
    assert page.query_selector("#chat .user-row video") is None


def test_a_system_prompt_counts_from_the_beginning(open_page: Pages, ours: tuple[app.Page, str]):
    page = open_page("en-US")
    page.click("#advanced button")
    page.fill("#system textarea", "You are a pirate.")
    page.press("#system textarea", "Tab")
    write(page, LONG)
    wait_for_reply(page)
    session = session_of(ours[0])
    assert session.conversation.system == "You are a pirate."
    page.fill("#system textarea", "You are a nurse.")
    page.press("#system textarea", "Tab")
    write(page, LONG)
    wait_for_reply(page, 2)
    assert session.conversation.system == "You are a pirate."
    begin_anew(page)
    page.click("#hands-free")
    wait_for_reply(page)
    page.keyboard.press("Escape")
    assert session.conversation.system == "You are a nurse."


def test_a_reply_in_text_alone_has_no_sound(open_page: Pages, ours: tuple[app.Page, str]):
    page = open_page("en-US")
    page.click("#advanced button")
    page.click("#text-only input")
    write(page, LONG)
    wait_for_reply(page)
    (turn,) = session_of(ours[0]).turns
    assert turn.reply and turn.reply_audio is None
    assert page.evaluate("window.played.length") == 0
    assert page.query_selector(".bot-row .actions .sound, .bot-row .download") is None


def test_speech_by_fewer_evaluations(open_page: Pages, ours: tuple[app.Page, str]):
    page = open_page("en-US")
    set_seed(page)
    for place, evaluations in enumerate(("1", "0"), 1):
        field = page.get_by_role("spinbutton", name="Euler evaluations")
        field.fill(evaluations)
        field.press("Tab")
        write(page, LONG)
        wait_for_reply(page, place)
    coarse, published = session_of(ours[0]).turns
    assert [turn.settings["euler_evaluations"] for turn in (coarse, published)] == [1, 0]


@pytest.mark.parametrize("text_only", [False, True])
def test_stop_keeps_what_was_said(
    open_page: Pages,
    ours: tuple[app.Page, str],
    monkeypatch: pytest.MonkeyPatch,
    text_only: bool,
):
    steps, num_free = (TextSteps, 16) if text_only else (CodeSteps, 50)
    begin, step, reply, stops = CodeSteps.__init__, steps.step, Conversation.reply, []

    def begin_without_end(self, *given):
        begin(self, *given)
        self._draw._suppressed = torch.cat([self._draw._suppressed, torch.tensor([PAD, END])])

    def note_stop(self, turn, options):
        stops.append(options.stop)
        return reply(self, turn, options)

    def hold(self):
        if len(self.ids if text_only else self.codes) >= num_free:
            stops[-1].wait(PATIENCE)
        return step(self)

    monkeypatch.setattr(CodeSteps, "__init__", begin_without_end)
    monkeypatch.setattr(Conversation, "reply", note_stop)
    monkeypatch.setattr(steps, "step", hold)
    page = open_page("en-US")
    page.set_default_timeout(1000 * PATIENCE)
    if text_only:
        monkeypatch.setattr("models.omni.reply.TEXT_SECONDS", 0)
        page.click("#advanced button")
        page.click("#text-only input")
    write(page, LONG)
    begun = "document.querySelector('.bot-row .text')?.textContent.length > 2"
    page.wait_for_function(begun if text_only else "window.pagePlayer.heard()?.seconds > 0.1")
    page.click("#stop")
    wait_for_reply(page)
    page.wait_for_selector(".bot-row .cut")
    monkeypatch.undo()
    write(page, LONG)
    wait_for_reply(page, 2)
    session = session_of(ours[0])
    stopped, whole = session.turns
    assert stopped.stopped and not whole.stopped and len(session.conversation.turns) == 2
    assert stopped.reply and not stopped.last.ended and whole.reply
    if text_only:
        assert stopped.reply_audio is None
    else:
        assert 0.1 < soundfile.info(stopped.reply_audio).duration < LIMITS.reply_seconds / 2


def test_sound_in_a_file_that_is_called_a_video_is_heard(
    open_page: Pages, ours: tuple[app.Page, str], tmp_path: Path
):
    path = tmp_path / "recorded.webm"
    with av.open(path, "w") as container:
        stream = container.add_stream("libopus", rate=48_000, layout="mono")
        noise = np.random.default_rng(0).uniform(-0.3, 0.3, 48_000).astype(np.float32)
        noise[np.arange(48_000) % 12_000 > 8000] = 0
        frame = av.AudioFrame.from_ndarray(noise[None], format="flt", layout="mono")
        frame.sample_rate = 48_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    page = open_page("en-US")
    attach(page, path, "video")
    page.click("#send")
    wait_for_reply(page)
    (turn,) = session_of(ours[0]).turns
    assert turn.video is None and turn.audio and turn.audio_seconds > 0.9
    assert page.query_selector("#composer .attached:not([hidden])") is None


def test_the_api_takes_a_picture_and_a_voice(ours: tuple[app.Page, str], shown: Path):
    client = Client(ours[1], verbose=False)
    given = {"text": LONG, "seed": SEED, "voice": "Ethan"}
    answers = [
        client.predict(**{**given, **more}, api_name="/speak")
        for more in ({}, {}, {"image": handle_file(shown)}, {"voice": "Chelsie"})
    ]
    text, sound = client.predict(**given, text_only=True, api_name="/speak")
    assert text == answers[0][0] and sound is None
    told = client.predict(**given, system="You are a pirate.", api_name="/speak")
    coarse = client.predict(**given, sampling={"euler_evaluations": 1}, api_name="/speak")
    assert told[0] != text and coarse[0] == text
    same, again, seen, other = (soundfile.read(sound, dtype="int16")[0] for _, sound in answers)
    np.testing.assert_array_equal(same, again)
    assert not np.array_equal(same, other) and not np.array_equal(same, seen)
    assert not np.array_equal(same, soundfile.read(coarse[1], dtype="int16")[0])
    begun = {"text": LONG, "text_only": True, "conversation": "a", "api_name": "/speak"}
    client.predict(**begun, system="You are a pirate.")
    with pytest.raises(AppError, match="a system prompt counts from a conversation's first turn"):
        client.predict(**begun, system="You are a nurse.")
    with pytest.raises(AppError, match="unknown voice"):
        client.predict(text=LONG, voice="nobody", api_name="/speak")


@pytest.mark.parametrize(("locale", "theme"), [("en-US", "light"), ("zh", "dark")])
def test_axe_finds_nothing(open_page: Pages, shown: Path, locale: str, theme: str):
    page = open_page(locale, theme=theme)
    page.wait_for_selector("html:not(.untranslated)")
    page.click("#advanced button")
    page.click("#voice label:has-text('Ethan')")
    attach(page, shown, "image")
    found = axe.Axe().run(page).response["violations"]
    page.click("#send")
    wait_for_reply(page)
    found += axe.Axe().run(page).response["violations"]
    assert [f"{rule['id']}: {rule['nodes'][0]['html'][:160]}" for rule in found] == []
