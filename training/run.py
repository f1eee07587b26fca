"""Make the embedded checkpoint from nothing: python -m training.run --minutes 180

Every stage is resumable and can be run alone with --stage; what a finished stage has written is
taken as it is.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from loguru import logger

from models.tokenizer import load_tokenizer
from models.westlake.checkpoint import save_checkpoint
from models.westlake.dual_ar import SamplingConfig

from .clarity import choose_clear, listener
from .codec import load_codes, train_codes
from .conversations import Conversations
from .corpus import read_shards, write_locked, write_speech, write_users
from .dialogues import load_dialogues
from .judge import Judge, train_judge
from .language_model import (
    load_language_model,
    new_language_model,
    train_language_model,
    train_understanding,
)
from .preference import train_preference
from .syllables import Recorder, load_syllables
from .tokenizer import VOCAB_SIZE, write_tokenizer
from .vocoder import load_codec, load_slow_stages, train_slow_stages, train_vocoder

# Shares of the minutes; synthesis, encoding and ten minutes for a recogniser come on top.
SHARES = {
    "codes": 0.12,
    "slow_stages": 0.08,
    "vocoder": 0.2,
    "understanding": 0.3,
    "language_model": 0.27,
    "preference": 0.03,
}
SPEECH_MINUTES, HELDOUT_MINUTES = 160, 15
LOCKED_MINUTES, LOCKED_HELDOUT_MINUTES = 108, 2
SYLLABLES_MINUTES = 60
USER_ROUNDS, HELDOUT_ROUNDS = 10, 1  # renditions of each line
# Speech that its words determine is best drawn near its mode, and silence repeats codes.
SAMPLING = SamplingConfig(temperature=0.5, top_p=0.7, repetition_penalty=1.0)


class Recipe:
    """The stages, in order; each takes from the work folder what the ones before have put there."""

    def __init__(self, work: Path, output: Path, minutes: float, device: str, workers: int) -> None:
        self.work, self.output, self.minutes = work, output, minutes
        self.device, self.workers = device, workers
        self.dialogues = load_dialogues()

    def tokenizer(self) -> None:
        write_tokenizer(self.output)

    def speech(self) -> None:
        for name, minutes, seed, heldout in (
            ("speech", SPEECH_MINUTES, 1, False),
            ("heldout", HELDOUT_MINUTES, 2, True),
        ):
            path = self.work / f"{name}.npy"
            if not path.exists():
                write_speech(self.dialogues, path, minutes, seed, heldout)

    def codes(self) -> None:
        train_codes(
            self.work / "speech.npy",
            self.work / "heldout.npy",
            self.work,
            self.minutes * SHARES["codes"],
            self.device,
        )

    def locked(self) -> None:
        codec = load_codes(self.work / "codes.pt")
        for name, minutes, seed, heldout in (
            ("locked", LOCKED_MINUTES, 11, False),
            ("locked_heldout", LOCKED_HELDOUT_MINUTES, 12, True),
        ):
            path = self.work / f"{name}.pt"
            if not path.exists():
                write_locked(codec, self.dialogues, path, minutes, seed, heldout, self.workers)

    def syllables(self) -> None:
        path = self.work / "syllables.pt"
        if not path.exists():
            codec = load_codes(self.work / "codes.pt")
            recorder = Recorder(codec, self.dialogues, self.workers)
            speech = self.work / "syllables_speech.pt"
            recorder.write(recorder.typical(), path, speech, SYLLABLES_MINUTES)

    def ear(self) -> Judge:
        """A recogniser for the training; the evaluation has another one."""
        return train_judge(self.dialogues, self.work, name="ear", seed=1)

    def slow_stages(self) -> None:
        train_slow_stages(
            self.work / "codes.pt",
            self.ear(),
            {self.work / "locked.pt": 0.5, self.work / "syllables_speech.pt": 0.5},
            {self.work / "locked_heldout.pt": 1.0},
            self.work,
            self.minutes * SHARES["slow_stages"],
            self.device,
        )

    def clear_syllables(self) -> None:
        path = self.work / "clear_syllables.pt"
        if not path.exists():
            codec, slow = load_slow_stages(self.work / "codes.pt", self.work / "slow_stages.pt")
            recorder = Recorder(codec, self.dialogues, self.workers)
            takes = choose_clear(recorder, listener(codec, slow, self.ear()))
            speech = self.work / "clear_syllables_speech.pt"
            recorder.write(takes, path, speech, SYLLABLES_MINUTES)

    def vocoder(self) -> None:
        train_vocoder(
            self.work / "codes.pt",
            self.work / "slow_stages.pt",
            self.ear(),
            {self.work / "locked.pt": 0.5, self.work / "clear_syllables_speech.pt": 0.5},
            {self.work / "locked_heldout.pt": 1.0},
            self.work,
            self.minutes * SHARES["vocoder"],
            self.device,
        )

    def corpus(self) -> None:
        codec = load_codes(self.work / "codes.pt")
        for name, rounds, seed, heldout in (
            ("heldout_users", HELDOUT_ROUNDS, 4, True),
            ("users", USER_ROUNDS, 3, False),
        ):
            folder = self.work / name
            write_users(codec, self.dialogues, folder, rounds, seed, heldout, self.workers)

    def understanding(self) -> None:
        train_understanding(
            self.dialogues,
            load_tokenizer(self.output, VOCAB_SIZE),
            self.work,
            self.minutes * SHARES["understanding"],
            self.device,
        )

    def language_model(self) -> None:
        train_language_model(
            self.dialogues,
            load_tokenizer(self.output, VOCAB_SIZE),
            self.work,
            self.minutes * SHARES["language_model"],
            self.device,
        )

    def preference(self) -> None:
        tokenizer = load_tokenizer(self.output, VOCAB_SIZE)
        codec = load_codec(self.work / "codes.pt", self.work / "vocoder.pt")
        model = train_preference(
            load_language_model(self.work / "language_model.pt", tokenizer),
            codec,
            Conversations(
                self.dialogues,
                read_shards(self.work / "users"),
                load_syllables(self.work / "clear_syllables.pt").replies(self.dialogues),
                tokenizer,
                codec.config.num_codebooks,
            ),
            self.ear(),
            SAMPLING,
            self.work,
            self.minutes * SHARES["preference"],
            self.device,
        )
        torch.save(model.state_dict(), self.work / "preferred.pt")

    def export(self) -> None:
        tokenizer = load_tokenizer(self.output, VOCAB_SIZE)
        model = new_language_model(tokenizer)
        model.load_state_dict(torch.load(self.work / "preferred.pt", weights_only=True))
        codec = load_codec(self.work / "codes.pt", self.work / "vocoder.pt")
        save_checkpoint(
            self.output, model, codec, tokenizer, sampling=SAMPLING, dtype=torch.float16
        )
        size = sum(path.stat().st_size for path in self.output.iterdir()) / 1e6
        logger.info(f"wrote {self.output}: {size:.1f} MB")

    def stages(self) -> dict[str, Callable[[], None]]:
        names = ("tokenizer", "speech", "codes", "locked", "syllables", "slow_stages")
        names += ("clear_syllables", "vocoder", "corpus", "understanding", "language_model")
        names += ("preference", "export")
        return {name: getattr(self, name) for name in names}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=180, help="of training, over all stages")
    parser.add_argument("--work", type=Path, default=Path("runs/tiny"))
    parser.add_argument("--output", type=Path, default=Path("checkpoints/tiny"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=2, help="processes that synthesise")
    parser.add_argument("--stage", help="only this one")
    options = parser.parse_args(arguments)
    recipe = Recipe(options.work, options.output, options.minutes, options.device, options.workers)
    stages = recipe.stages()
    if options.stage and options.stage not in stages:
        parser.error(f"unknown stage {options.stage!r}: choose one of {', '.join(stages)}")
    for name, stage in stages.items():
        if options.stage in (None, name):
            logger.info(f"stage {name}")
            stage()


if __name__ == "__main__":
    main()
