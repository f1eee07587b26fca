"""For the time until the loader gives the contract itself."""

from __future__ import annotations

import os

from generate import generate_long
from models.contract import ReplyChunk
from models.westlake.checkpoint import load_checkpoint
from models.westlake.conversation import Conversation, UserTurn
from models.westlake.dual_ar import Stepper

os.environ["TQDM_DISABLE"] = "1"


class Model:
    def __init__(self, checkpoint):
        self.checkpoint = checkpoint
        self.name = checkpoint.name
        self.sampling = checkpoint.sampling
        self.emotions = tuple(checkpoint.emotion_ids)
        self.styles = tuple(checkpoint.style_ids)
        config = checkpoint.codec.config
        self.sample_rate = config.sample_rate
        self.frame_rate = config.sample_rate / config.samples_per_frame
        self.stepper = Stepper(checkpoint.model)

    def new_conversation(self):
        return Talk(self)

    def warm_up(self):
        from generate import warm_up

        warm_up(self.checkpoint)


class Talk:
    def __init__(self, model):
        self.model = model
        self.inner = Conversation(model.checkpoint)

    def begin_turn(self, text=None, sample_rate=None):
        return UserTurn(self.inner, text, sample_rate)

    def reply(self, turn, options):
        # generate_long finishes the turn itself
        turn.finish = lambda: None
        for chunk in generate_long(
            self.model.checkpoint,
            audio=turn,
            sampling=options.sampling,
            style=options.style,
            max_new_tokens=options.max_frames,
            first_chunk_frames=options.first_chunk_frames,
            chunk_frames=options.chunk_frames,
            stepper=self.model.stepper,
        ):
            yield ReplyChunk(
                new_text=chunk.text,
                new_audio=chunk.audio,
                total_frames=chunk.num_frames,
                max_frames=chunk.max_frames,
                total_seconds=0.0,
                max_seconds=0.0,
                emotion=chunk.emotion,
                style=chunk.style,
                seed=0,
                ended=chunk.ended,
            )


def load_model(name="tiny", device="cpu", dtype="auto"):
    return Model(load_checkpoint(name, device, dtype))
