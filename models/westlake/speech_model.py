"""Westlake-Omni as a `SpeechModel`: a loaded checkpoint, ready to talk to many users."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from weakref import WeakSet

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from strings import Text

from ..audio import AudioClip, resample
from ..contract import ReplyOptions, SamplingField
from ..errors import UserError
from ..tokenizer import max_characters
from ..transformer.native import work_beside
from .checkpoint import Checkpoint, load_checkpoint
from .conversation import Conversation, Turn
from .dual_ar import PromptTokens, Stepper, mark_room
from .saved_conversation import read_turns

REPLY_SHARE = 0.25  # of the context, kept free for the reply to come
SAMPLING_FIELDS = (
    SamplingField(name="temperature", low=0.05, high=1.95, step=0.05),
    SamplingField(name="top_p", low=0.05, high=1.0, step=0.05),
    SamplingField(name="repetition_penalty", low=0.5, high=1.95, step=0.05),
)

_models: WeakSet[WestlakeModel] = WeakSet()


class WestlakeModel:
    """A checkpoint that speaks; see `contract.SpeechModel` for the fields.

    Args:
        checkpoint: from `load_checkpoint`.
    """

    family = "westlake"
    languages: tuple[str, ...] = ("zh",)
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
        self.decoders = _new_decoders() if checkpoint.decodes_beside else None
        _models.add(self)
        self.prompt_tokens = PromptTokens.from_encode(checkpoint.tokenizer.encode)
        room = checkpoint.model.config.max_seq_len - mark_room(checkpoint.mark_ids)
        self.max_input_columns = int(room * (1 - REPLY_SHARE))
        layout = self.prompt_tokens.opening(after_reply=False) + self.prompt_tokens.closing()
        self.max_input_seconds = (self.max_input_columns - len(layout)) / self.frame_rate
        self.max_input_characters = max_characters(checkpoint.tokenizer, self.max_input_columns)

    def new_conversation(self) -> Conversation:
        """A conversation in which nothing was said yet."""
        return Conversation(self)

    def load_conversation(self, path: str | os.PathLike) -> Conversation:
        """Restore a saved conversation; it goes on as the saved one would have.

        Raises:
            UserError: not such a file, or one of another checkpoint.
        """
        return Conversation(self, [Turn(*turn) for turn in read_turns(path, self.checkpoint)])

    @torch.inference_mode()
    def encode(self, samples: Tensor, sample_rate: int) -> np.ndarray:
        """A sound's codes; see `contract.SpeechCodec`.

        Args:
            samples: [n] float32 in -1..1; less than a frame is filled up with silence.
            sample_rate: in Hz.

        Returns:
            [K, T] int64 in 0..codebook_size-1; the last frame may be partly filled.

        Raises:
            UserError: no samples, or a rate out of range.
        """
        codec = self.checkpoint.codec
        clip = AudioClip(samples, sample_rate)
        if not len(samples):
            raise UserError("error_no_samples", sound=Text("recording"))
        wave = resample(clip, self.sample_rate)
        missing = codec.config.samples_per_frame - wave.shape[-1]
        wave = F.pad(wave, (0, max(0, missing))).to(self.checkpoint.device)
        return codec.encode_chunk(wave, codec.new_state(), last=True)[0].cpu().numpy()

    @torch.inference_mode()
    def decode(self, codes: np.ndarray) -> np.ndarray:
        """The sound of codes [K, T]; see `contract.SpeechCodec`.

        Raises:
            UserError: codes of another shape or out of range.
        """
        codec = self.checkpoint.codec
        config, given = codec.config, torch.as_tensor(codes)
        num_codebooks, size = config.num_codebooks, config.codebook_size
        is_whole = not (given.is_floating_point() or given.is_complex())
        if not is_whole or given.dim() != 2 or len(given) != num_codebooks:
            shape = f"{given.dtype} {list(given.shape)}".removeprefix("torch.")
            raise UserError("error_codes_shape", shape=shape, num_codebooks=num_codebooks)
        if given.numel() and not 0 <= int(given.min()) <= int(given.max()) < size:
            raise UserError(
                "error_codes_range", low=int(given.min()), high=int(given.max()), limit=size - 1
            )
        given = given.long().to(self.checkpoint.device)
        wave = codec.decode_chunk(given[None], codec.new_state())
        return wave[0, 0].float().cpu().numpy()

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


def _new_decoders() -> ThreadPoolExecutor:
    """Threads for sound, on the cores that the language model leaves."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return ThreadPoolExecutor(max(1, cores - 1), initializer=work_beside)


def _renew_decoders() -> None:
    """A forked process has none of their threads."""
    for model in _models:
        if model.decoders is not None:
            model.decoders = _new_decoders()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_decoders)


def load_westlake(
    name_or_path: str | os.PathLike, device: str, dtype: str, revision: str | None
) -> WestlakeModel:
    """Load a checkpoint of this family; see `models.load.load_model`."""
    return WestlakeModel(load_checkpoint(name_or_path, device, dtype, revision))
