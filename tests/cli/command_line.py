"""Calls of the command line, and what they are to write: what its tests share."""

import wave

import numpy as np
from loguru import logger

from generate import generate_long, main
from models.audio import to_pcm16
from models.westlake.dual_ar import SamplingConfig

RATE = 16_000


def answer(*arguments, frames=6):
    return main(["--seed", "1", "--max-new-tokens", str(frames), *arguments])


def expected_pcm(model, *turns, frames=6):
    conversation = model.new_conversation()
    settings = {"sampling": SamplingConfig(seed=1), "max_new_tokens": frames}
    chunks = [
        chunk.new_audio
        for turn in turns
        for chunk in generate_long(model, conversation=conversation, **settings, **turn)
    ]
    return to_pcm16(np.concatenate(chunks))


def read_pcm(path):
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2"), file.getframerate()


def refused(capsys, *arguments):
    """The one line that is said about bad input; nothing is logged nor written."""
    lines = []
    sink = logger.add(lines.append)
    try:
        assert main([*arguments]) == 2
    finally:
        logger.remove(sink)
    output = capsys.readouterr()
    assert output.out == "" and lines == []
    (line,) = output.err.splitlines()
    assert line.startswith("generate.py: ")
    return line
