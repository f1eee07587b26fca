"""Qwen2.5-Omni as a `SpeechModel`: a loaded checkpoint, ready to talk to many users."""

from __future__ import annotations

import os
from typing import Any

from ..contract import ReplyOptions, SamplingField
from ..conversations import check_text
from ..errors import UserError, shown
from ..tokenizer import max_characters
from .checkpoint import Checkpoint, load_checkpoint
from .conversation import Conversation, Turn
from .listen import MAX_SECONDS, MelSettings
from .look import look_at
from .prompt import Prompt
from .sampling import FlowConfig, OmniSampling
from .saved_conversation import read_turns
from .segment import Segment
from .token2wav import Token2Wav
from .user_turn import TOKENS_PER_SECOND

REPLY_SHARE = 0.25  # of the context, kept free for the reply to come
DEFAULT_VOICE = "Chelsie"
SAMPLING_FIELDS = (
    SamplingField(name="temperature", low=0.05, high=1.95, step=0.05),
    SamplingField(name="top_p", low=0.05, high=1.0, step=0.05),
    SamplingField(name="repetition_penalty", low=0.5, high=1.95, step=0.05),
    SamplingField(name="euler_evaluations", low=0, high=36, step=1),
)


class OmniModel:
    """A checkpoint that hears, sees, writes and speaks; see `contract.SpeechModel` for the fields.

    Its frames are codes of 20 ms; of a reply in text alone, tokens.

    Args:
        checkpoint: from `load_checkpoint`.
    """

    family = "omni"
    languages: tuple[str, ...] = ("zh", "en")
    emotions: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()
    accepts = frozenset({"audio", "text", "image", "video"})
    sampling_fields: tuple[SamplingField, ...] = SAMPLING_FIELDS

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.name = checkpoint.name
        self.device = checkpoint.device.type
        self.dtype = checkpoint.dtype
        self.num_parameters = checkpoint.num_parameters
        self.voices = tuple(checkpoint.voices)
        self.sampling = OmniSampling(speaks=checkpoint.speaks)
        config = checkpoint.config.token2wav_config
        hop_length = 1
        for rate in config.bigvgan_config.upsample_rates:
            hop_length *= rate
        self.sample_rate = 24_000
        self.frame_rate = self.sample_rate / hop_length / config.dit_config.repeats
        self.prompt = Prompt(checkpoint)
        self.mel_settings = MelSettings.of(checkpoint.thinker_config.audio_config)
        self.max_positions = checkpoint.thinker_config.text_config.max_position_embeddings
        self.max_input_positions = int(self.max_positions * (1 - REPLY_SHARE))
        layout = (self.prompt.system(), self.prompt.opening(), self.prompt.closing())
        room = (self.max_input_positions - sum(map(len, layout)) - 2) / TOKENS_PER_SECOND
        if room <= 0:
            raise ValueError(
                f"{checkpoint.folder}: max_position_embeddings {self.max_positions} has no room "
                "for a turn: it is not the published config.json"
            )
        self.max_input_seconds = min(MAX_SECONDS, room)
        self.max_input_characters = max_characters(checkpoint.tokenizer, self.max_input_positions)

    def new_conversation(self) -> Conversation:
        """A conversation in which nothing was said yet."""
        return Conversation(self)

    def new_conversation_with(self, system: str) -> Conversation:
        """A new conversation whose system prompt goes on with this, behind what speech needs.

        Raises:
            UserError: no text, or one that takes more than half of the room for turns.
        """
        if not isinstance(system, str):
            raise UserError("error_text_type", type=type(system).__name__)
        self.check_text(system)
        if len(self.prompt.system(system)) > self.max_input_positions // 2:
            limit = self.max_input_positions // 2
            raise UserError("error_text_too_long", characters=len(system), limit=limit)
        return Conversation(self, system)

    def check_text(self, text: str) -> None:
        """Raise a UserError if a text is so long that it need not be read."""
        check_text(text, self.max_input_characters)

    def load_conversation(self, path: str | os.PathLike) -> Conversation:
        """Restore a saved conversation; it goes on as the saved one would have.

        Raises:
            UserError: not such a file, or one of another checkpoint.
        """
        turns, system = read_turns(path, self.checkpoint, self.max_positions)
        return Conversation(self, system, [Turn(segments) for segments in turns])

    def warm_up(self) -> None:
        """Load the parts that a spoken turn needs, and make the process ready for it."""
        turn = self.new_conversation().begin_turn("Hello")
        turn.finish()
        for _ in turn.conversation.reply(turn, ReplyOptions(max_frames=2)):
            pass
        self.checkpoint.audio_tower  # noqa: B018 (loads it)

    def voice(self, name: str | None) -> dict[str, Any]:
        """The parts of a voice; the default one where none is named, and none where there is none.

        Raises:
            UserError: an unknown name.
        """
        voices = self.checkpoint.voices
        if name is None:
            name = DEFAULT_VOICE if DEFAULT_VOICE in voices else next(iter(voices), "")
            return voices.get(name, {})
        if name not in voices:
            code = "error_unknown_voice" if voices else "error_no_voices"
            raise UserError(code, name=shown(name), allowed=", ".join(voices))
        return voices[name]

    def token2wav(self, flow: FlowConfig, options: ReplyOptions) -> Token2Wav:
        """What makes a reply's sound, in pieces of whole blocks."""
        dit = self.checkpoint.config.token2wav_config.dit_config
        block = dit.block_size // dit.repeats
        first, most = (-(-n // block) for n in (options.first_chunk_frames, options.chunk_frames))
        return Token2Wav(self.checkpoint.token2wav, flow, first, most)

    def look(self, image: Any, video: Any) -> list[Segment]:
        """What a user shows, as the models read it.

        Raises:
            UserError: it can't be read, or is too large.
        """
        return look_at(self.checkpoint, self.prompt, self.mel_settings, image, video)


def load_omni(
    name_or_path: str | os.PathLike, device: str, dtype: str, revision: str | None
) -> OmniModel:
    """Load a checkpoint of this family; see `models.load.load_model`."""
    return OmniModel(load_checkpoint(name_or_path, device, dtype, revision))
