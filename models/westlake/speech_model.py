"""Westlake-Omni as a `SpeechModel`: a loaded checkpoint, ready to talk to many users."""

from __future__ import annotations

import os

import torch

from ..contract import ReplyOptions, SamplingField
from .checkpoint import Checkpoint, load_checkpoint
from .conversation import Conversation, Turn
from .dual_ar import PromptTokens, Stepper
from .saved_conversation import read_turns

REPLY_SHARE = 0.25  # of the context, kept free for the reply to come
SAMPLING_FIELDS = (
    SamplingField(name="temperature", low=0.05, high=1.95, step=0.05),
    SamplingField(name="top_p", low=0.05, high=1.0, step=0.05),
    SamplingField(name="repetition_penalty", low=0.5, high=1.95, step=0.05),
)


class WestlakeModel:
    """A checkpoint that speaks; see `contract.SpeechModel` for the fields.

    Args:
        checkpoint: from `load_checkpoint`.
    """

    family = "westlake"
    accepts = frozenset({"audio", "text"})
    voices: tuple[str, ...] = ()
    sampling_fields: tuple[SamplingField, ...] = SAMPLING_FIELDS

    def __init__(self, checkpoint: Checkpoint) -> None:
        config = checkpoint.codec.config
        self.checkpoint = checkpoint
        self.name = checkpoint.name
        self.device = checkpoint.device.type
        self.dtype = checkpoint.dtype
        self.num_parameters = checkpoint.num_parameters
        self.sampling = checkpoint.sampling
        self.emotions = tuple(checkpoint.emotion_ids)
        self.styles = tuple(checkpoint.style_ids)
        self.sample_rate = config.sample_rate
        self.frame_rate = config.frame_rate
        self.stepper = Stepper(checkpoint.engine)
        self.prompt_tokens = PromptTokens.from_encode(checkpoint.tokenizer.encode)
        self.max_input_columns = int(checkpoint.model.config.max_seq_len * (1 - REPLY_SHARE))
        layout = self.prompt_tokens.opening(after_reply=False) + self.prompt_tokens.closing()
        self.max_input_seconds = (self.max_input_columns - len(layout)) / self.frame_rate
        # No text of more characters can be of so few tokens that it fits.
        longest_token = max(map(len, checkpoint.tokenizer.get_vocab()))
        self.max_input_characters = self.max_input_columns * longest_token

    def new_conversation(self) -> Conversation:
        """A conversation in which nothing was said yet."""
        return Conversation(self)

    def load_conversation(self, path: str | os.PathLike) -> Conversation:
        """Restore a saved conversation; it goes on as the saved one would have.

        Raises:
            UserError: not such a file, or one of another checkpoint.
        """
        return Conversation(self, [Turn(*turn) for turn in read_turns(path, self.checkpoint)])

    def warm_up(self) -> None:
        """Make the process ready for its first user, whose reply would else be slower."""
        if not self.checkpoint.is_large:
            # A second thread gains it little, and the browser or another user waits for that core.
            torch.set_num_threads(1)
        conversation, options = self.new_conversation(), ReplyOptions(max_frames=1)
        turn = conversation.begin_turn("你好")
        turn.finish()
        for _ in conversation.reply(turn, options):
            pass
        codec = self.checkpoint.codec
        for num_frames in (1 << n for n in range(options.chunk_frames.bit_length())):
            codes = torch.zeros(1, codec.config.num_codebooks, num_frames, dtype=torch.long)
            codec.decode_chunk(codes.to(self.checkpoint.device), codec.new_state())


def load_westlake(
    name_or_path: str | os.PathLike, device: str, dtype: str, revision: str | None
) -> WestlakeModel:
    """Load a checkpoint of this family; see `models.load.load_model`."""
    return WestlakeModel(load_checkpoint(name_or_path, device, dtype, revision))
