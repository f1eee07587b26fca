"""Measure a checkpoint on held-out speech: python -m training.evaluate --checkpoint tiny

Held out are the users' lines and their voices; an ear that learned from people hears the replies.
Everything is drawn from the seed. Progress goes to the error output; what is printed ends in one
line of JSON. All that was asked and replied stands in `replies.jsonl` of the work folder.

Of a checkpoint without emotions and styles, which was taught other dialogues, only what any can
give is measured: whether its speech says its text, when, and in one voice. It is asked in writing,
the held-out lines or those of a file: --texts lines.txt --language en
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from models.load import load_model

from .dialogues import load_dialogues
from .evaluation.clips import RecordedTeacher
from .evaluation.ear import WhisperEar
from .evaluation.figures import figure_lines, format_report, to_json
from .evaluation.plain import FIGURES as PLAIN_FIGURES
from .evaluation.plain import evaluate_plain
from .evaluation.questions import known_lines
from .evaluation.run import evaluate
from .speech.speakers import check_voices

LANGUAGES = ("zh", "en")
UTTERANCES = 144  # once each intent; 15 to 20 minutes on two cores


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="tiny", help="tiny, a folder, or a hub id")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/evaluation"), help="keeps clips and what was heard"
    )
    parser.add_argument("--voices", type=Path, help="folder of all of Kokoro's voices; see README")
    parser.add_argument("--utterances", type=int, default=UTTERANCES, help="for each measure")
    parser.add_argument("--texts", type=Path, help="what to ask, a line each; see above")
    parser.add_argument("--language", choices=LANGUAGES, default="zh", help="of the replies")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="auto, cpu or cuda")
    parser.add_argument("--dtype", default="auto", help="of the language model")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="of teacher and ear")
    options = parser.parse_args(arguments)
    for name in ("utterances", "workers"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}, but must be at least 1")
    if options.voices:
        try:
            check_voices(options.voices)
        except ValueError as error:
            parser.error(str(error))
    texts = read_texts(options.texts) if options.texts else []
    if options.language != "zh" and not texts:
        parser.error("the held-out lines are Chinese: give --texts with lines in the language")
    ear = WhisperEar(options.work, options.workers, options.language)
    model = load_model(options.checkpoint, options.device, options.dtype)
    model.warm_up()
    if texts or not (model.emotions or model.styles):
        lines = known_lines(load_dialogues(), options.utterances, options.seed)
        asked = texts[: options.utterances] or [line.text for line in lines]
        plain = evaluate_plain(model, asked, ear, options.seed)
        _keep(options.work, plain.exchanges)
        print("\n".join(figure_lines(plain.figures, PLAIN_FIGURES)))
        print(to_json(plain.figures))
        return
    teacher = RecordedTeacher(options.work / "clips", options.workers, options.voices)
    report = evaluate(
        model,
        load_dialogues(),
        teacher,
        ear,
        options.utterances,
        options.seed,
        others=options.voices is not None,
    )
    _keep(options.work, [asdict(exchange) for exchange in report.exchanges])
    print(format_report(report))
    print(to_json(report.figures))


def read_texts(path: Path) -> list[str]:
    """The lines of a file, without empty ones.

    Raises:
        ValueError: it has none, or is no text.
    """
    texts = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    texts = [text for text in texts if text]
    if not texts:
        raise ValueError(f"{path} has no lines: write what is asked, a line each")
    return texts


def _keep(folder: Path, exchanges: Sequence[Mapping[str, object]]) -> None:
    with (folder / "replies.jsonl").open("w", encoding="utf-8") as file:
        for exchange in exchanges:
            file.write(json.dumps(exchange, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
