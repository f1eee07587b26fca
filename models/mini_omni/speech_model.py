"""Mini-Omni as a `SpeechModel`: a loaded checkpoint, ready to talk to many users."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial

import torch

from ..contract import ReplyOptions, SamplingField
from ..errors import UserError, shown
from ..stepping import Stepper
from ..tokenizer import max_characters
from .checkpoint import Checkpoint, load_checkpoint
from .conversation import Conversation, read_turns
from .ear import SAMPLE_RATE, SAMPLES_PER_FRAME
from .generation import Reply, next_columns

INPUT_SHARE = 0.75  # of the context, that a user's turn may take
NUM_LAYOUT = 3  # columns of a prompt that are no text or speech
SEED_LIMIT = 2**63


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """What may be chosen: the likeliest tokens are always taken, as the published code does.

    Args:
        seed: of the codec's noise; None draws a fresh one.

    Raises:
        UserError: a value of another type, or outside of its range.
    """

    seed: int | None = None

    def __post_init__(self) -> None:
        if self.seed is None:
            return
        is_whole = isinstance(self.seed, int) and not isinstance(self.seed, bool)
        if not is_whole or not 0 <= self.seed < SEED_LIMIT:
            limits = "a whole number, 0 <= seed < 2^63"
            raise UserError(
                "error_out_of_range", name="seed", value=shown(self.seed), limits=limits
            )


class MiniOmniModel:
    """A checkpoint that speaks; see `contract.SpeechModel` for the fields.

    Args:
        checkpoint: from `load_checkpoint`.
    """

    family = "mini_omni"
    languages: tuple[str, ...] = ("en",)
    accepts = frozenset({"audio", "text"})
    emotions: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()
    voices: tuple[str, ...] = ()
    sampling = NoiseConfig()
    sampling_fields: tuple[SamplingField, ...] = ()

    def __init__(self, checkpoint: Checkpoint) -> None:
        config, codec = checkpoint.model.config, checkpoint.codec
        self.checkpoint = checkpoint
        self.name = checkpoint.name
        self.device = checkpoint.device.type
        self.dtype = checkpoint.dtype
        self.num_parameters = checkpoint.num_parameters
        self.sample_rate = codec.sample_rate
        self.frame_rate = codec.sample_rate / codec.samples_per_frame
        self.max_input_tokens = int(config.block_size * INPUT_SHARE) - NUM_LAYOUT
        # The ear gives a feature for what it begins, too.
        room = (self.max_input_tokens - 1) * SAMPLES_PER_FRAME
        self.max_input_samples = min(checkpoint.ear.max_samples, room)
        self.max_input_seconds = self.max_input_samples / SAMPLE_RATE
        self.stepper: Stepper[Reply] = Stepper(
            partial(next_columns, checkpoint.engine), Reply.snapshot
        )
        self.silent_tokens = range(config.text.end, config.text_vocab_size)
        self.max_input_characters = max_characters(checkpoint.tokenizer, self.max_input_tokens)

    def new_conversation(self) -> Conversation:
        """A conversation in which nothing was said yet."""
        return Conversation(self)

    def load_conversation(self, path: str | os.PathLike) -> Conversation:
        """Restore a saved conversation.

        Raises:
            UserError: not such a file, or one of another checkpoint.
        """
        return Conversation(self, read_turns(path, self.checkpoint))

    def warm_up(self) -> None:
        """Make the process ready for its first user, whose reply would else be slower."""
        options = ReplyOptions(max_frames=2)
        turn = self.new_conversation().begin_turn(sample_rate=SAMPLE_RATE)
        turn.push(torch.zeros(SAMPLE_RATE // 2))
        turn.finish()
        for _ in turn.conversation.reply(turn, options):
            pass
        codec, size = self.checkpoint.codec, options.first_chunk_frames
        while size <= options.chunk_frames:
            num_frames = size + 2 * codec.context
            codes = torch.zeros(7, num_frames, dtype=torch.long, device=self.checkpoint.device)
            codec(codes, 0, 0)
            size *= 2


def load_mini_omni(
    name_or_path: str | os.PathLike, device: str, dtype: str, revision: str | None
) -> MiniOmniModel:
    """Load a checkpoint of this family; see `models.load.load_model`."""
    return MiniOmniModel(load_checkpoint(name_or_path, device, dtype, revision))
