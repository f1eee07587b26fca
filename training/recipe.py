"""The stages that make the embedded checkpoint, in order, and what each takes and leaves."""

import shutil
from collections.abc import Callable
from itertools import chain, islice
from pathlib import Path

import torch
from loguru import logger

from models.tokenizer import TextTokenizer, load_tokenizer, special_words
from models.westlake.dual_ar import SamplingConfig
from models.westlake.firefly import FireflyArchitecture
from models.westlake.moods import MOODS_FILE, read_moods
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
from .speech.given import take_over
from .speech.lines import foreign_lines, reply_lines, user_lines
from .speech.moods import train_moods
from .speech.recordings import Line, read, record
from .work_folder import WorkFolder

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
MOOD_RECORDINGS = 3000  # of each kind of users, that moods are learned from
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
# A top_p below 1 would never let the second of two equally good replies through.
SAMPLING = SamplingConfig(temperature=0.5, top_p=1.0, repetition_penalty=1.0)


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
        given: folder of recordings that somebody else made, see `speech.given`; it hears those too.
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
        given: Path | None = None,
    ) -> None:
        self.work, self.output, self.minutes = work, output, minutes
        self.device, self.workers, self.start = device, workers, start
        self.voices, self.given = voices, given
        self.dialogues = load_dialogues()
        self.found = WorkFolder(work)
        self.takes = self.found.takes

    def tokenizer(self) -> None:
        if not (self.work / "tokenizer").exists():
            write_tokenizer(self.dialogues, self.work / "tokenizer")

    def topics(self) -> None:
        if not (self.work / TOPICS_FILE).exists():
            train_topics(self.dialogues, self.work / TOPICS_FILE)

    def syllables(self) -> None:
        if not (self.work / SYLLABLES_FILE).exists():
            names = sorted(special_words(self.load_tokenizer(), "heard"))
            count_syllables(self.dialogues, names, self.work / SYLLABLES_FILE)

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
        if self.given:
            take_over(self.given, self.dialogues, self.takes / "given")
        for name, lines in self.lines().items():
            record(lines, self.takes / name, self.workers, self.voices)

    def moods(self) -> None:
        if (self.work / MOODS_FILE).exists():
            return
        self.found.need_recordings(self.lines())
        if self.given:
            self.found.made("recordings", "takes/given")
        kinds = (self.takes / name for name in ("users", "others", "given"))
        users = chain.from_iterable(islice(read(kind), MOOD_RECORDINGS) for kind in kinds)
        train_moods(users, read(self.takes / "heldout"), self.work / MOODS_FILE)

    def clips(self) -> None:
        self.found.need_recordings(self.lines())
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
        return load_tokenizer(self.found.made("tokenizer", "tokenizer"), size)

    @property
    def ear(self) -> Recogniser:
        return load_recogniser(self.found.made("recogniser"))

    @property
    def speech(self) -> dict[Path, float]:
        """What the codec learns from."""
        return {
            self.found.made("clips", "assistant_clips.npy"): ASSISTANT_SHARE,
            self.found.made("clips", "user_clips.npy"): 1 - ASSISTANT_SHARE,
        }

    def codes(self) -> None:
        train_codes(
            self.speech,
            self.found.made("clips", "heldout_clips.npy"),
            self.work,
            self.minutes * SHARES["codes"],
            self.device,
            self.start and load_start(self.start),
        )

    def hearing(self) -> None:
        self.found.need_recordings(self.lines())
        names = ("users", "others", "replies")
        train_hearing(
            self.found.made("codes"),
            [recording for name in names for recording in read(self.takes / name)],
            list(islice(read(self.takes / "heldout"), VALIDATION_RECORDINGS)),
            self.work,
            self.minutes * SHARES["hearing"],
            self.device,
        )

    def recogniser(self) -> None:
        self.found.need_recordings(self.lines())
        train_recogniser(
            [*read(self.takes / "users"), *read(self.takes / "replies")],
            list(islice(read(self.takes / "heldout"), VALIDATION_RECORDINGS)),
            self.work,
            self.minutes * SHARES["recogniser"],
            self.device,
        )

    def slow_stages(self) -> None:
        train_slow_stages(
            self.found.trained_encoder(),
            self.ear,
            self.speech,
            {self.found.made("clips", "heldout_clips.npy"): 1.0},
            self.work,
            self.minutes * SHARES["slow_stages"],
            self.device,
            self.start and load_start(self.start),
        )

    def vocoder(self) -> None:
        train_vocoder(
            self.found.trained_encoder(),
            self.found.made("slow_stages"),
            self.ear,
            self.speech,
            {self.found.made("clips", "heldout_clips.npy"): 1.0},
            self.work,
            self.minutes * SHARES["vocoder"],
            self.device,
        )

    def polish(self) -> None:
        polish_vocoder(
            self.found.trained_encoder(),
            self.found.made("vocoder"),
            self.ear,
            {
                self.found.made("clips", f"{name}.npy"): share
                for name, share in POLISH_SHARES.items()
            },
            {self.found.made("clips", "heldout_clips.npy"): 1.0},
            self.work,
            self.minutes * SHARES["polish"],
            self.device,
        )

    def load_codec(self) -> FireflyArchitecture:
        return load_codec(self.found.made("hearing"), self.found.made("polish", "polished.pt"))

    def corpus(self) -> None:
        self.found.need_recordings(self.lines())
        if self.given:
            self.found.made("recordings", "takes/given")
        codec = load_codes(self.found.trained_encoder()).to(self.device)
        for folder in self.found.outdated_corpus():
            shutil.rmtree(folder)
        write_users(codec, self.takes / "heldout", self.work / "heldout_users", 1, seed=5)
        write_replies(codec, self.takes / "replies", self.work / "replies")
        sounds = self.work / "sounds" / "sounds.pt"
        write_sounds(codec, self.takes / "users", sounds, NUM_SOUNDS, seed=6)
        write_users(codec, self.takes / "foreign", self.work / "sounds", FOREIGN_HEARD, seed=9)
        write_users(codec, self.takes / "users", self.work / "users", VARIED_ROUNDS, seed=3)
        write_users(codec, self.takes / "others", self.work / "users", VARIED_ROUNDS, seed=10)
        write_users(codec, self.takes / "given", self.work / "users", VARIED_ROUNDS, seed=12)

    def understanding(self) -> None:
        self.found.need_corpus()
        train_understanding(
            self.dialogues,
            self.load_tokenizer(),
            self.work,
            self.minutes * SHARES["understanding"],
            self.device,
            self.start,
        )

    def language_model(self) -> None:
        self.found.need_corpus()
        self.found.made("understanding")
        train_language_model(
            self.dialogues,
            self.load_tokenizer(),
            self.work,
            self.minutes * SHARES["language_model"],
            self.device,
        )

    def preference(self) -> None:
        source = self.found.made("language_model")
        if is_up_to_date(self.work / "preferred.pt", source):
            return
        self.found.need_corpus()
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
        preferred = self.found.made("preference", "preferred.pt")
        model.load_state_dict(torch.load(preferred, weights_only=True, map_location="cpu"))
        codec = self.load_codec()
        written = self.work / "checkpoint"
        save_checkpoint(
            written,
            model,
            codec,
            tokenizer,
            sampling=SAMPLING,
            topics=read_topics(self.found.made("topics", TOPICS_FILE)),
            moods=read_moods(self.found.made("moods", MOODS_FILE)),
            syllables=read_syllables(self.found.made("syllables", SYLLABLES_FILE)),
            dtype=torch.float16,
        )
        self.output.mkdir(parents=True, exist_ok=True)
        for path in written.iterdir():  # only what was written without an error gets there
            with replacing(self.output / path.name) as temporary:
                shutil.copyfile(path, temporary)
        size = sum(path.stat().st_size for path in written.iterdir()) / 1e6
        logger.info(f"wrote {self.output}: {size:.1f} MB")

    def stages(self) -> dict[str, Callable[[], object]]:
        names = ("tokenizer", "topics", "syllables", "recordings", "moods", "clips", "codes")
        names += ("hearing", "recogniser", "slow_stages", "vocoder", "polish", "corpus")
        names += ("understanding", "language_model", "preference", "export")
        return {name: getattr(self, name) for name in names}
