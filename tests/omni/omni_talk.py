"""What the tests say to a small Qwen2.5-Omni, and how they hear its answers."""

from dataclasses import dataclass, field
from threading import Event
from unittest.mock import patch

import numpy as np
import torch
from omni_reference import Reference, reference
from PIL import Image
from transformers import WhisperFeatureExtractor

from models.contract import ReplyChunk, ReplyOptions
from models.omni.reply import OpenReply
from models.omni.sampling import FlowConfig, OmniSampling

RATE = 16_000
LONG, SHORT = "hello", "abc"  # their replies' texts
EXACT = FlowConfig(num_steps=2, blocks_ahead=4)  # as many blocks as evaluations


def speech(seconds: float, seed: int = 0) -> torch.Tensor:
    """Noise with a beat, at 16 kHz."""
    generator = torch.Generator().manual_seed(seed)
    wave = torch.rand(int(seconds * RATE), generator=generator) - 0.5
    return wave * (1 + torch.sin(torch.arange(len(wave)) / 1500)) / 2


def picture(width=90, height=60, seed=0) -> Image.Image:
    """Spots of colour."""
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 255, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR)


@dataclass
class Answer:
    """A reply: the prompt's ids in front of it, what was said, and its chunks."""

    prompt: torch.Tensor
    ids: list[int]
    codes: list[int]
    chunks: list[ReplyChunk] = field(default_factory=list)

    @property
    def wave(self) -> np.ndarray:
        return np.concatenate([chunk.new_audio for chunk in self.chunks])


def ask(
    model, conversation=None, *, frames=150, seed=3, voice=None, flow=EXACT, speaks=True,
    sound=None, pieces=(7000,), **given
) -> Answer:  # fmt: skip
    """Let a model answer; the sound is pushed in pieces of so many samples."""
    conversation = conversation or model.new_conversation()
    turn = conversation.begin_turn(sample_rate=RATE, **given)
    for place, piece in enumerate(() if sound is None else sound.split(pieces[0])):
        turn.push(piece)
        assert turn.seconds_heard <= (place + 1) * pieces[0] / RATE
    turn.finish()
    prompt = torch.cat([segment.ids for segment in conversation.segments])
    sampling = OmniSampling(seed=seed, flow=flow, speaks=speaks)
    options = ReplyOptions(sampling=sampling, max_frames=frames, voice=voice, stop=Event())
    made: list[OpenReply] = []

    class Kept(OpenReply):
        def __init__(self, *arguments) -> None:
            super().__init__(*arguments)
            made.append(self)

    with patch("models.omni.reply.OpenReply", Kept):
        chunks = list(conversation.reply(turn, options))
    codes = made[0].speech.codes if made[0].speech else []
    return Answer(prompt, made[0].text.ids, codes, chunks)


def features(*sounds: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the published processor makes of sounds at 16 kHz."""
    extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=30)
    made = extractor(
        [sound.numpy() for sound in sounds],
        sampling_rate=RATE,
        padding="max_length",
        return_attention_mask=True,
        return_tensors="pt",
    )
    return {
        "input_features": made["input_features"],
        "feature_attention_mask": made["attention_mask"],
    }


def published_answer(published, answer: Answer, frames=150, seed=3, num_steps=2, **inputs):
    """What generate() says to the same prompt."""
    given: dict = {"input_ids": answer.prompt[None], **inputs}
    return reference(published, given, seed, frames, token2wav_num_steps=num_steps)


def assert_same(answer: Answer, expected: Reference, tolerance: float = 1e-5) -> None:
    assert answer.ids == expected.ids
    assert answer.codes == expected.codes
    assert len(answer.wave) == len(expected.wave)
    error = np.abs(answer.wave - expected.wave.numpy()).max()
    assert error <= tolerance * float(expected.wave.abs().max())
