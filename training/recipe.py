"""The stages that make the embedded checkpoint, in order, and what each takes and leaves."""

import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import torch
from loguru import logger

from models.tokenizer import TextTokenizer, load_tokenizer
from models.westlake.dual_ar import SamplingConfig
from models.westlake.firefly import FireflyArchitecture
from models.westlake.saved_checkpoint import save_checkpoint
from models.westlake.syllables import SYLLABLES_FILE, read_syllables
from models.westlake.topics import TOPICS_FILE, read_topics

from .codec.clips import write_clips, write_shifted_clips
from .codec.config import load_start
from .codec.encoder import load_codes, train_codes
from .codec.hearing import train_hearing
from .codec.polish import polish_vocoder
from .codec.vocoder import load_codec, train_slow_stages, train_vocoder
from .dialogues import load_dialogues
from .files import is_up_to_date, replacing
from .language.batches import Corpus
from .language.corpus import write_replies, write_sounds, write_users
from .language.model import (
    load_language_model,
    new_language_model,
    train_language_model,
    train_understanding,
)
from .language.preference import train_preference
from .language.syllables import count_syllables
from .language.tokenizer import VOCAB_SIZE, questions_of, write_tokenizer
from .language.topics import train_topics
from .recogniser.recogniser import Recogniser, load_recogniser, train_recogniser
from .speech.lines import foreign_lines, reply_lines, user_lines
from .speech.recordings import Line, missing_shards, read, record

# Shares of the minutes; recording and encoding come on top.
SHARES = {
    "codes": 0.06,
    "hearing": 0.06,
    "recogniser": 0.05,
    "slow_stages": 0.06,
    "vocoder": 0.2,
    "polish": 0.1,
    "understanding": 0.22,
    "language_model": 0.22,
    "preference": 0.03,
}
USER_ROUNDS = 2  # recordings of each line of the users'
OTHER_RECORDINGS = 6000  # of users in blends of all of Kokoro's voices, where those are
VARIED_ROUNDS = 4  # times that each of all these is heard
FOREIGN_HEARD = 1  # times that each of those is heard
CLIP_RECORDINGS = 4000  # of the users', that the codec learns from
PLAIN_RECORDINGS = 700  # of users who speak as the teacher does by itself
FOREIGN_ROUNDS = 4  # recordings of each line in another language
NUM_SOUNDS = 1200  # that nobody can understand
HELDOUT_RECORDINGS = 400
VALIDATION_RECORDINGS = 60  # of those, for what is trained on recordings
ASSISTANT_SHARE = 0.5  # of the codec's training
POLISH_SHARES = {
    "assistant_shifted_clips": 0.5,
    "plain_clips": 0.25,
    "user_clean_clips": 0.125,
    "user_clips": 0.125,
}
CORPUS = ("heldout_users", "replies", "sounds", "users")  # folders of codes
# A top_p below 1 would never let the second of two equally good replies through.
SAMPLING = SamplingConfig(temperature=0.5, top_p=1.0, repetition_penalty=1.0)


class MissingStageError(RuntimeError):
    """A stage was asked for before another one that it needs."""


class Recipe:
    """The stages, in order; each takes from the work folder what the ones before have put there.

    Args:
        work: where the stages leave what they make.
        output: the checkpoint's folder.
        minutes: of training, over all stages.
        device: "cpu" or "cuda".
        workers: processes that record.
        start: folder of a checkpoint to train on from.
        voices: folder of all of Kokoro's voices, see `speech.teacher`; the language model hears
            users in blends of them as well.
    """

    def __init__(
        self,
        work: Path,
        output: Path,
        minutes: float,
        device: str,
        workers: int,
        start: Path | None = None,
        voices: Path | None = None,
    ) -> None:
        self.work, self.output, self.minutes = work, output, minutes
        self.device, self.workers, self.start, self.voices = device, workers, start, voices
        self.dialogues = load_dialogues()
        self.takes = work / "takes"

    def tokenizer(self) -> None:
        if not (self.work / "tokenizer").exists():
            write_tokenizer(self.dialogues, self.work / "tokenizer")

    def topics(self) -> None:
        if not (self.work / TOPICS_FILE).exists():
            train_topics(self.dialogues, self.work / TOPICS_FILE)

    def syllables(self) -> None:
        if not (self.work / SYLLABLES_FILE).exists():
            count_syllables(self.dialogues, self.work / SYLLABLES_FILE)

    def lines(self) -> dict[str, list[Line]]:
        """What is recorded, by the folder of its takes."""
        heldout = user_lines(self.dialogues, 1, seed=4, heldout=True)
        lines = {
            "heldout": heldout[:HELDOUT_RECORDINGS],
            "replies": reply_lines(self.dialogues, seed=1),
            "users": user_lines(self.dialogues, USER_ROUNDS, seed=7),
            "plain": user_lines(self.dialogues, 1, seed=11, plain=True)[:PLAIN_RECORDINGS],
            "foreign": foreign_lines(FOREIGN_ROUNDS, seed=8),
        }
        if self.voices or (self.takes / "others").exists():
            others = user_lines(self.dialogues, 1, seed=13, other=True)
            lines["others"] = others[:OTHER_RECORDINGS]
        return lines

    def recordings(self) -> None:
        for name, lines in self.lines().items():
            record(lines, self.takes / name, self.workers, self.voices)

    def need_recordings(self) -> None:
        """Refuse to go on with a part of them: what is made of it would count as finished."""
        for name, lines in self.lines().items():
            if missing := missing_shards(lines, self.takes / name):
                raise MissingStageError(
                    f"{self.takes / name} lacks {len(missing)} files: run --stage recordings first"
                )

    def made(self, stage: str, name: str | None = None) -> Path:
        """What a stage has put into the work folder, `<stage>.pt` without a name."""
        path = self.work / (name or f"{stage}.pt")
        if not path.exists():
            raise MissingStageError(f"{path} is missing: run --stage {stage} first")
        return path

    def trained_encoder(self) -> Path:
        """What gives codes; clips' codes of an earlier one are removed, to be made anew."""
        source = self.made("hearing")
        for path in self.work.glob("*.codes.pt"):
            if not is_up_to_date(path, source):
                path.unlink()
        return source

    def clips(self) -> None:
        self.need_recordings()
        for name, takes, most, clean in (
            ("heldout_clips", "heldout", None, False),
            ("assistant_clips", "replies", None, False),
            ("user_clips", "users", CLIP_RECORDINGS, False),
            ("user_clean_clips", "users", CLIP_RECORDINGS, True),
            ("plain_clips", "plain", None, True),
        ):
            path = self.work / f"{name}.npy"
            if not path.exists():
                write_clips(islice(read(self.takes / takes), most), path, seed=1, clean=clean)
        shifted = self.work / "assistant_shifted_clips.npy"
        if not shifted.exists():
            write_shifted_clips(self.work / "assistant_clips.npy", shifted)

    def load_tokenizer(self) -> TextTokenizer:
        size = VOCAB_SIZE + len(questions_of(self.dialogues.intents))
        return load_tokenizer(self.made("tokenizer", "tokenizer"), size)

    @property
    def ear(self) -> Recogniser:
        return load_recogniser(self.made("recogniser"))

    @property
    def speech(self) -> dict[Path, float]:
        """What the codec learns from."""
        return {
            self.made("clips", "assistant_clips.npy"): ASSISTANT_SHARE,
            self.made("clips", "user_clips.npy"): 1 - ASSISTANT_SHARE,
        }

    def codes(self) -> None:
        train_codes(
            self.speech,
            self.made("clips", "heldout_clips.npy"),
            self.work,
            self.minutes * SHARES["codes"],
            self.device,
            self.start and load_start(self.start),
        )

    def hearing(self) -> None:
        self.need_recordings()
        names = ("users", "others", "replies")
        train_hearing(
            self.made("codes"),
            [recording for name in names for recording in read(self.takes / name)],
            list(islice(read(self.takes / "heldout"), VALIDATION_RECORDINGS)),
            self.work,
            self.minutes * SHARES["hearing"],
            self.device,
        )

    def recogniser(self) -> None:
        self.need_recordings()
        train_recogniser(
            [*read(self.takes / "users"), *read(self.takes / "replies")],
            list(islice(read(self.takes / "heldout"), VALIDATION_RECORDINGS)),
            self.work,
            self.minutes * SHARES["recogniser"],
            self.device,
        )

    def slow_stages(self) -> None:
        train_slow_stages(
            self.trained_encoder(),
            self.ear,
            self.speech,
            {self.made("clips", "heldout_clips.npy"): 1.0},
            self.work,
            self.minutes * SHARES["slow_stages"],
            self.device,
            self.start and load_start(self.start),
        )

    def vocoder(self) -> None:
        train_vocoder(
            self.trained_encoder(),
            self.made("slow_stages"),
            self.ear,
            self.speech,
            {self.made("clips", "heldout_clips.npy"): 1.0},
            self.work,
            self.minutes * SHARES["vocoder"],
            self.device,
        )

    def polish(self) -> None:
        polish_vocoder(
            self.trained_encoder(),
            self.made("vocoder"),
            self.ear,
            {self.made("clips", f"{name}.npy"): share for name, share in POLISH_SHARES.items()},
            {self.made("clips", "heldout_clips.npy"): 1.0},
            self.work,
            self.minutes * SHARES["polish"],
            self.device,
        )

    def load_codec(self) -> FireflyArchitecture:
        return load_codec(self.made("hearing"), self.made("polish", "polished.pt"))

    def corpus(self) -> None:
        self.need_recordings()
        codec = load_codes(self.trained_encoder()).to(self.device)
        for folder in self.outdated():
            shutil.rmtree(folder)
        write_users(codec, self.takes / "heldout", self.work / "heldout_users", 1, seed=5)
        write_replies(codec, self.takes / "replies", self.work / "replies")
        sounds = self.work / "sounds" / "sounds.pt"
        write_sounds(codec, self.takes / "users", sounds, NUM_SOUNDS, seed=6)
        write_users(codec, self.takes / "foreign", self.work / "sounds", FOREIGN_HEARD, seed=9)
        write_users(codec, self.takes / "users", self.work / "users", VARIED_ROUNDS, seed=3)
        write_users(codec, self.takes / "others", self.work / "users", VARIED_ROUNDS, seed=10)

    def outdated(self) -> list[Path]:
        """Folders of the corpus that hold codes of an earlier encoder."""
        encoder, folders = self.made("hearing"), [self.work / name for name in CORPUS]
        return [f for f in folders if not all(is_up_to_date(p, encoder) for p in f.glob("*.pt"))]

    def need_corpus(self) -> None:
        for name in CORPUS:
            self.made("corpus", name)
        if folders := self.outdated():
            raise MissingStageError(
                f"{folders[0]} holds codes of an earlier encoder: run --stage corpus first"
            )

    def understanding(self) -> None:
        self.need_corpus()
        train_understanding(
            self.dialogues,
            self.load_tokenizer(),
            self.work,
            self.minutes * SHARES["understanding"],
            self.device,
            self.start,
        )

    def language_model(self) -> None:
        self.need_corpus()
        self.made("understanding")
        train_language_model(
            self.dialogues,
            self.load_tokenizer(),
            self.work,
            self.minutes * SHARES["language_model"],
            self.device,
        )

    def preference(self) -> None:
        source = self.made("language_model")
        if is_up_to_date(self.work / "preferred.pt", source):
            return
        self.need_corpus()
        for name in ("preference.pt", "preference_pairs.pt"):
            if not is_up_to_date(self.work / name, source):  # of an earlier language model
                (self.work / name).unlink(missing_ok=True)
        tokenizer = self.load_tokenizer()
        train_preference(
            load_language_model(source, tokenizer),
            self.load_codec(),
            Corpus(self.dialogues, tokenizer, self.work).conversations,
            self.ear,
            SAMPLING,
            self.work,
            self.minutes * SHARES["preference"],
            self.device,
        )

    def export(self) -> None:
        tokenizer = self.load_tokenizer()
        model = new_language_model(tokenizer)
        preferred = self.made("preference", "preferred.pt")
        model.load_state_dict(torch.load(preferred, weights_only=True, map_location="cpu"))
        codec = self.load_codec()
        written = self.work / "checkpoint"
        save_checkpoint(
            written,
            model,
            codec,
            tokenizer,
            sampling=SAMPLING,
            topics=read_topics(self.made("topics", TOPICS_FILE)),
            syllables=read_syllables(self.made("syllables", SYLLABLES_FILE)),
            dtype=torch.float16,
        )
        self.output.mkdir(parents=True, exist_ok=True)
        for path in written.iterdir():  # only what was written without an error gets there
            with replacing(self.output / path.name) as temporary:
                shutil.copyfile(path, temporary)
        size = sum(path.stat().st_size for path in written.iterdir()) / 1e6
        logger.info(f"wrote {self.output}: {size:.1f} MB")

    def stages(self) -> dict[str, Callable[[], object]]:
        names = ("tokenizer", "topics", "syllables", "recordings", "clips", "codes", "hearing")
        names += ("recogniser", "slow_stages", "vocoder", "polish", "corpus", "understanding")
        names += ("language_model", "preference", "export")
        return {name: getattr(self, name) for name in names}
