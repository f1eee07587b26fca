"""A reply's text: whole characters, with the sound that they belong to."""

import numpy as np
import pytest
from replying import reply_to
from small import small_model, speaking


@pytest.fixture(scope="module")
def model(small_codec):
    return small_model(small_codec)


def byte_tokens(model, data):
    """One token for each byte, so that characters of several bytes are cut."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(0x100) if byte not in shown]
    symbols = {byte: chr(byte) for byte in shown}
    symbols |= {byte: chr(0x100 + i) for i, byte in enumerate(hidden)}
    vocab = model.checkpoint.tokenizer.get_vocab()
    return [vocab[symbols[byte]] for byte in data]


@pytest.mark.parametrize("sizes", [(1, 1), (2, 3), (4, 8)])
def test_text_comes_in_whole_characters(model, sizes):
    text = "嗯, é龘𠮷😀!"
    tokens = byte_tokens(model, text.encode())
    assert len(tokens) > 2 * len(text) - 3
    chunks, said, _ = reply_to(
        speaking(model, tokens),
        text="你好",
        max_new_tokens=50,
        first_chunk_frames=sizes[0],
        chunk_frames=sizes[1],
    )
    assert said == text
    if sizes == (1, 1):
        frames = {chunk.total_frames: chunk.new_text for chunk in chunks if chunk.new_text}
        ends = np.cumsum([len(character.encode()) for character in text])
        assert frames == dict(zip(ends.tolist(), text))


@pytest.mark.parametrize(
    "data, text",
    [
        ("龘".encode()[:2], ""),
        (b"a" + "龘".encode()[:2] + b"b", "ab"),
        (b"\x80a\xff\xfeb", "ab"),
        ("龘".encode()[1:] + "嗯".encode(), "嗯"),
    ],
)
def test_broken_characters_are_never_shown(model, data, text):
    tokens = byte_tokens(model, data)
    for size in (1, 50):
        _, said, _ = reply_to(
            speaking(model, tokens), text="你好", first_chunk_frames=size, chunk_frames=size
        )
        assert said == text


def test_text_goes_on_around_silent_frames(model):
    ids = model.checkpoint.tokenizer.encode("你好")
    mark = model.checkpoint.style_ids["calm"]
    tokens = [ids[0], model.checkpoint.semantic_id, mark, *ids[1:], model.checkpoint.semantic_id]
    _, said, _ = reply_to(speaking(model, tokens), text="你好")
    assert said == "你好"


def test_each_chunk_has_the_text_of_its_own_sound(model):
    tokens = byte_tokens(model, b"abcdefghijklm")
    chunks, _, _ = reply_to(speaking(model, tokens), text="你好")
    assert [chunk.new_text for chunk in chunks if chunk.new_text] == ["ab", "cdef", "ghijklm"]


def test_emotion_and_style_are_told_when_they_are_known(model):
    emotion, style = model.checkpoint.emotion_ids["sad"], model.checkpoint.style_ids["warm"]
    other = model.checkpoint.style_ids["calm"]
    tokens = [emotion, style, *model.checkpoint.tokenizer.encode("你好"), other]
    chunks, text, _ = reply_to(
        speaking(model, tokens), text="你好", first_chunk_frames=1, chunk_frames=1
    )
    assert (chunks[0].emotion, chunks[0].style) == ("sad", None)
    assert {(chunk.emotion, chunk.style) for chunk in chunks[1:]} == {("sad", "warm")}
    assert text == "你好"
    silent, _, _ = reply_to(speaking(model, []), text="你好")
    assert (silent[0].emotion, silent[0].style) == (None, None)
