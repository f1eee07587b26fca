"""Take the picture of the page answering about a picture: python -m assets.seeing

The published weights are too large for that, so a model of the tests' size in their layout learns
here, in a minute or two, to name six shapes; it learns no speech, and so answers in text alone.
"""

from __future__ import annotations

import itertools
import random
import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from playwright.sync_api import Page, sync_playwright

import app
from models.omni.config import quiet
from models.omni.prompt import embeddings
from models.omni.segment import text_segment
from models.omni.speech_model import OmniModel, load_omni

from .pictures import FOLDER, LOCALES, SHOW, SIZES, TIMEOUT_MS, chromium_path, small

sys.path.append(str(FOLDER.parent / "tests" / "omni"))
from omni_small import small_model, write_folder

PICTURE = FOLDER / "seeing.png"
COLOURS = {"red": (214, 69, 65), "green": (46, 139, 87), "blue": (52, 106, 190)}
SHAPES = ("circle", "square")
QUESTIONS = ("What is this?", "And this?")
SHOWN = (("red", "circle"), ("blue", "square"))
SIDE = 112
NUM_STEPS, NUM_LESSONS, LEARNING_RATE = 400, 6, 2e-3
GOOD_LOSS = 0.02  # of a byte


def drawn(colour: str, shape: str, radius: int = 38) -> Image.Image:
    """A shape on white."""
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    middle = SIDE // 2
    box = (middle - radius, middle - radius, middle + radius, middle + radius)
    draw = ImageDraw.Draw(picture)
    (draw.ellipse if shape == "circle" else draw.rectangle)(box, fill=COLOURS[colour])
    return picture


def answer(colour: str, shape: str) -> str:
    return f"A {colour} {shape}."


def lesson(model: OmniModel, kinds: list[tuple[str, str]], radius: int) -> tuple:
    """A conversation of two turns.

    Returns:
        What is read [n, C], at positions [3, n], and the tokens to be said [n]; -100 where none is.
    """
    prompt, encode = model.prompt, model.checkpoint.tokenizer.encode
    segments, is_said = [prompt.system()], [False]
    for question, kind in zip(QUESTIONS, kinds, strict=True):
        shown = model.look(drawn(*kind, radius), None)
        told = [prompt.opening(), *shown, prompt.text(question), prompt.closing()]
        segments += [*told, text_segment(encode(answer(*kind))), prompt.reply_end([])]
        is_said += [False] * len(told) + [True, True]
    starts = itertools.accumulate((segment.extent for segment in segments), initial=0)
    positions = torch.cat([s.positions + start for s, start in zip(segments, starts)], dim=1)
    ids = torch.cat([segment.ids for segment in segments])
    said = torch.cat([torch.full((len(s),), is_one) for s, is_one in zip(segments, is_said)])
    targets = torch.where(said, ids, -100).roll(-1)
    return torch.cat([embeddings(model.checkpoint, s) for s in segments]), positions, targets


def learn(model: OmniModel) -> None:
    """Let the thinker learn to name the shapes."""
    generator = random.Random(0)
    kinds = list(itertools.product(COLOURS, SHAPES))
    parts = [model.checkpoint.language_model, model.checkpoint.lm_head]
    weights = [weight for part in parts for weight in part.requires_grad_(True).parameters()]
    optimiser = torch.optim.AdamW(weights, LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, NUM_STEPS)
    loss = torch.tensor(torch.inf)
    for step in range(NUM_STEPS):
        lessons = [
            lesson(model, generator.choices(kinds, k=2), generator.randint(32, 44))
            for _ in range(NUM_LESSONS)
        ]
        length = max(len(read) for read, _, _ in lessons)
        rows = [length - len(read) for read, _, _ in lessons]
        pad = torch.nn.functional.pad
        read = torch.stack([pad(x, (0, 0, 0, n)) for (x, _, _), n in zip(lessons, rows)])
        places = torch.stack([pad(x, (0, n)) for (_, x, _), n in zip(lessons, rows)], dim=1)
        targets = torch.stack([pad(x, (0, n), value=-100) for (_, _, x), n in zip(lessons, rows)])
        hidden = parts[0](inputs_embeds=read, position_ids=places, use_cache=False)[0]
        is_asked = targets != -100
        loss = torch.nn.functional.cross_entropy(parts[1](hidden[is_asked]), targets[is_asked])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        schedule.step()
        if step % 50 == 0:
            print(f"step {step}: loss {float(loss):.3f}", flush=True)
    for part in parts:
        part.requires_grad_(False)
    if float(loss) > GOOD_LOSS:
        sys.exit(f"it has not learnt the shapes (loss {float(loss):.3f}): give it more steps")


def ask(page: Page, folder: Path) -> None:
    """Show the shapes and ask what they are."""
    page.click("#advanced button")
    page.click("#text-only input")
    page.click("#advanced button")
    for number, (question, kind) in enumerate(zip(QUESTIONS, SHOWN), 1):
        path = folder / f"{'-'.join(kind)}.png"
        drawn(*kind).save(path)
        page.set_input_files("#composer input[type=file]", path)
        page.wait_for_selector("#composer .attached[data-kind=image]:not([hidden])")
        page.fill("#text", question)
        page.click("#send")
        page.wait_for_function(
            f"document.querySelectorAll('.bot-row .actions').length === {number}"
        )
        said = page.inner_text(".bot-row .text >> nth=-1")
        if said != answer(*kind):
            sys.exit(f"it says {said!r} of {path.name}")


def main() -> None:
    with tempfile.TemporaryDirectory() as data, sync_playwright() as play:
        folder = Path(data)
        with quiet():
            checkpoint = write_folder(folder / "qwen2.5-omni-small", small_model())
        model = load_omni(checkpoint, "cpu", "float32", None)
        learn(model)
        server = app.Page(model, data_folder=folder)
        browser = play.chromium.launch(executable_path=chromium_path(), args=["--no-sandbox"])
        try:
            context = browser.new_context(locale=LOCALES["en"])
            context.set_default_timeout(TIMEOUT_MS)
            page = context.new_page()
            page.goto(server.launch(quiet=True))
            page.wait_for_function("Boolean(window.pageAsk?.answer && window.pagePlayer)")
            ask(page, folder)
            width, height = SIZES["wide"]
            page.set_viewport_size({"width": width, "height": height})
            page.evaluate(SHOW, "light")
            page.wait_for_timeout(500)
            PICTURE.write_bytes(small(page.screenshot()))
        finally:
            browser.close()
            server.close()


if __name__ == "__main__":
    main()
