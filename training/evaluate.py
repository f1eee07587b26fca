"""Measure a checkpoint on held-out speech: python -m training.evaluate --checkpoint tiny

Held out are the users' lines and their voices; an ear that learned from people hears the replies.
Everything is drawn from the seed. Progress goes to the error output; what is printed ends in one
line of JSON. All that was asked and replied stands in `replies.jsonl` of the work folder.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from models.load import load_model

from .dialogues import load_dialogues
from .evaluation.clips import RecordedTeacher
from .evaluation.ear import WhisperEar
from .evaluation.figures import format_report, to_json
from .evaluation.run import evaluate

UTTERANCES = 144  # once each intent; 15 to 20 minutes on two cores


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="tiny", help="tiny, a folder, or a hub id")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/evaluation"), help="keeps clips and what was heard"
    )
    parser.add_argument("--utterances", type=int, default=UTTERANCES, help="for each measure")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="auto, cpu or cuda")
    parser.add_argument("--dtype", default="auto", help="of the language model")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="of teacher and ear")
    options = parser.parse_args(arguments)
    for name in ("utterances", "workers"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}, but must be at least 1")
    ear = WhisperEar(options.work, options.workers)
    teacher = RecordedTeacher(options.work / "clips", options.workers)
    model = load_model(options.checkpoint, options.device, options.dtype)
    model.warm_up()
    report = evaluate(model, load_dialogues(), teacher, ear, options.utterances, options.seed)
    with (options.work / "replies.jsonl").open("w", encoding="utf-8") as file:
        for exchange in report.exchanges:
            file.write(json.dumps(asdict(exchange), ensure_ascii=False) + "\n")
    print(format_report(report))
    print(to_json(report.figures))


if __name__ == "__main__":
    main()
