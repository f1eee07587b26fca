"""Measure a checkpoint on held-out speech: python -m training.evaluate --checkpoint tiny

Held out are the users' lines, their voices, and the way they speak. Everything is drawn from the
seed. Progress goes to the error output; what is printed ends in one line of JSON.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from loguru import logger
from tqdm import tqdm

from models.westlake.checkpoint import Checkpoint, load_checkpoint

from .answers import MAX_SECONDS, answer_all, draw_questions
from .corpus import write_speech
from .dialogues import EMOTIONS, Dialogues, load_dialogues
from .judge import JUDGE_MINUTES, Judge, heldout_speech, train_judge
from .measures import (
    count_codes,
    mel_distance,
    pooled,
    real_time_factor,
    reply_errors,
    right_intents,
    second_turns,
    stoi,
    style_prosody,
    through_codec,
)
from .prosody import ProsodyMeasure
from .scores import accuracy, confusion, share, style_order
from .synthesise import SAMPLE_RATE, STYLE_PROSODY, phonemes

NUM_HEARD = 48  # utterances that STOI and the judge are measured on
NUM_STYLED = 12  # questions answered once in every style
NUM_TIMED = 5
RECORDING_MINUTES, RECORDING_SEED = 15, 2  # as the recipe makes it
FIGURES = {
    "codec_stoi": "intelligibility (STOI) of speech that went through the codec",
    "codes_used_min": f"fewest codes a codebook uses in {RECORDING_MINUTES} minutes",
    "judge_cer": "the judge's errors per character on the synthesiser's speech",
    "reply_cer": "the judge's errors per character of the replies, against their own text",
    "intent_speech_text": "replies of the right intent, to speech and text",
    "intent_speech": "replies of the right intent, to speech alone",
    "user_emotion_accuracy": f"right emotion of {len(EMOTIONS)}, by the voice alone",
    "style_order": "pairs of styles in the promised order of pitch, pace and loudness",
    "stop_rate": f"replies that end by themselves within {MAX_SECONDS:g} s",
    "second_turn": "right answers to a spoken follow-up question",
    "rtf": "seconds of work per second of reply, one at a time",
}


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was measured.

    Fields:
        figures: the keys of `FIGURES`; NaN where nothing could be measured.
        notes: further figures, by what they are.
        emotions: how often each emotion was taken for each (None: for none).
        styles: each style's median prosody; None where nothing was heard.
    """

    figures: Mapping[str, float]
    notes: Mapping[str, float]
    emotions: Mapping[str, Mapping[str | None, int]]
    styles: Mapping[str, ProsodyMeasure | None]


def evaluate(
    checkpoint: Checkpoint,
    dialogues: Dialogues,
    judge: Judge,
    recording: Path,
    num_utterances: int,
    seed: int,
) -> Report:
    """Measure everything; a few minutes for 198 utterances on two cores.

    Args:
        recording: held-out speech, int16 at 22,050 Hz, to count codes on.
        num_utterances: held-out questions that each measure of understanding is taken on.
        seed: of all that is drawn.

    Raises:
        ValueError: the checkpoint has no emotions or no styles.
        RuntimeError: espeak-ng is missing.
    """
    rng = np.random.default_rng(seed)
    questions = draw_questions(dialogues, num_utterances, rng)
    moods = draw_questions(dialogues, num_utterances, rng, any_emotion=True)
    assistant = heldout_speech(dialogues, NUM_HEARD, seed)
    rate = checkpoint.codec.config.sample_rate

    waves = [wave for _, wave in assistant] + [q.wave for q in questions[:NUM_HEARD]]
    pairs = [through_codec(checkpoint, wave) for wave in tqdm(waves, desc="codec", leave=False)]
    coded = [
        judge.count_errors(text, decoded, rate) for (text, _), (_, decoded) in zip(assistant, pairs)
    ]

    spoken = answer_all(checkpoint, questions, seed, label="speech")
    with_text = [replace(question, with_text=True) for question in questions]
    both = answer_all(checkpoint, with_text, seed, label="speech and text")
    half = math.ceil(num_utterances / 2)
    second = second_turns(checkpoint, dialogues, with_text[:half], both, seed, rng)
    # The emotion is the first thing that a reply says.
    felt = answer_all(checkpoint, moods, seed, max_seconds=0.1, label="emotion")
    emotions = confusion([q.emotion for q in moods], [a.emotion for a in felt], EMOTIONS)
    styles = style_prosody(checkpoint, with_text[:NUM_STYLED], seed)

    figures = {
        "codec_stoi": stoi(checkpoint, pairs),
        "codes_used_min": count_codes(checkpoint, recording),
        "judge_cer": pooled(judge.count_errors(text, w, SAMPLE_RATE) for text, w in assistant),
        "reply_cer": pooled(reply_errors(checkpoint, judge, spoken[:NUM_HEARD])),
        "intent_speech_text": share(right_intents(dialogues, questions, both)),
        "intent_speech": share(right_intents(dialogues, questions, spoken)),
        "user_emotion_accuracy": accuracy(emotions),
        "style_order": style_order(styles),
        "stop_rate": share([answer.ended for answer in (*spoken, *both)]),
        "second_turn": share(second),
        "rtf": real_time_factor(checkpoint, questions[: NUM_TIMED + 1], seed),
    }
    assert figures.keys() == FIGURES.keys(), figures
    notes = {
        "log-mel L1 of the codec, median": mel_distance(checkpoint, pairs),
        "the judge's errors per character after the codec": pooled(coded),
    }
    return Report(figures=figures, notes=notes, emotions=emotions, styles=styles)


def format_report(report: Report) -> str:
    """The tables, as they are printed."""
    width = max(map(len, EMOTIONS)) + 2
    header = "".join(f"{name:>{width}}" for name in (*EMOTIONS, "none"))
    lines = ["User emotion: spoken (rows), perceived (columns)", " " * width + header]
    for truth, counts in report.emotions.items():
        row = "".join(f"{count:>{width}}" for count in counts.values())
        lines.append(f"{truth:<{width}}{row}")
    lines += ["", "Median prosody of the replies by style, from low to high as promised"]
    lines.append(f"{'':<14}{'F0 Hz':>10}{'F0 spread st':>14}{'syllables/s':>13}{'loudness dB':>13}")
    for style in sorted(STYLE_PROSODY, key=lambda style: STYLE_PROSODY[style].pitch):
        measure = report.styles.get(style)
        if measure is None:
            lines.append(f"{style:<14}{'nothing heard':>10}")
            continue
        lines.append(
            f"{style:<14}{measure.f0_hz:>10.1f}{measure.f0_spread:>14.1f}"
            f"{measure.syllables_per_second:>13.2f}{measure.loudness_db:>13.1f}"
        )
    lines.append("")
    lines += [f"{name:<24}{report.figures[name]:>9.4g}  {what}" for name, what in FIGURES.items()]
    lines += [f"{'':<24}{value:>9.4g}  {what}" for what, value in report.notes.items()]
    return "\n".join(lines)


def to_json(figures: Mapping[str, float]) -> str:
    """One line; what could not be measured is null."""
    return json.dumps(
        {name: round(value, 4) if math.isfinite(value) else None for name, value in figures.items()}
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="tiny", help="tiny, a folder, or a hub id")
    parser.add_argument("--work", type=Path, default=Path("runs/tiny"), help="the judge's folder")
    parser.add_argument("--utterances", type=int, default=198, help="for each measure")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="auto, cpu or cuda")
    parser.add_argument("--dtype", default="auto", help="of the language model")
    parser.add_argument("--judge-minutes", type=float, default=JUDGE_MINUTES, help="to train it")
    options = parser.parse_args(arguments)
    if options.utterances < 1:
        parser.error(f"--utterances is {options.utterances}, but must be at least 1")
    phonemes("你好")  # without espeak-ng there is nothing to measure with
    checkpoint = load_checkpoint(options.checkpoint, options.device, options.dtype)
    dialogues = load_dialogues()
    judge = train_judge(dialogues, options.work, options.judge_minutes)
    recording = options.work / "heldout.npy"
    if not recording.exists():
        write_speech(dialogues, recording, RECORDING_MINUTES, RECORDING_SEED, heldout=True)
    logger.disable("generate")  # it tells of every reply
    report = evaluate(checkpoint, dialogues, judge, recording, options.utterances, options.seed)
    print(format_report(report))
    print(to_json(report.figures))


if __name__ == "__main__":
    main()
