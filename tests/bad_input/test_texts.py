"""Texts and settings of any kind: what looks like a control token stays text; errors are clear."""

from __future__ import annotations

import dataclasses
import math

import pytest
from cases import cases, check_told
from hypothesis import strategies as st
from small import small_model

from generate import generate_long, printable
from models.errors import UserError
from models.hub import TINY
from models.tokenizer import load_tokenizer, text_tokens
from models.westlake.dual_ar import SamplingConfig
from page import options
from page.checks import check_text, reply_options
from page.limits import Limits

pytestmark = pytest.mark.slow
LIMITS = Limits()
TOKENIZER = load_tokenizer(TINY, 10**6)
CONTROL = list(TOKENIZER.get_added_vocab())
PIECES = st.one_of(
    st.sampled_from(CONTROL),
    st.sampled_from([token[:-1] for token in CONTROL] + [token[1:] for token in CONTROL]),
    st.text(max_size=20),
    st.text(st.characters(categories=("Cc", "Cf", "Co", "Cn")), max_size=10),
    st.sampled_from(["你好", "<|", "|>", "\0", "\r\n", "\u202e", "\ufeff", "🗣️", " ", "\ud800"]),
)
TEXTS = st.lists(PIECES, max_size=12).map("".join)
VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), TEXTS,
        st.sampled_from([0.7, 1, 5, 30, -1, 2**53, "", "calm", "warm", 1e308]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner)),
    max_leaves=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def model(small_codec):
    return small_model(small_codec)


@cases(700, TEXTS)
def test_a_text_is_text(text: str):
    """Also where it holds control tokens: none of them, in whole or put together, comes out."""
    try:
        ids = text_tokens(TOKENIZER, text)
    except UserError as error:
        check_told(error)
        assert any("\ud800" <= char <= "\udfff" for char in text)
        return
    assert not set(ids) & set(TOKENIZER.get_added_vocab().values())
    decoded = TOKENIZER.decode(ids)
    normal = TOKENIZER.backend.normalizer.normalize_str
    assert normal(decoded) == normal(text)


@cases(80, TEXTS)
def test_a_turn_of_any_text(model, text: str):
    conversation = model.new_conversation()
    try:
        turn = conversation.begin_turn(text)
        turn.finish()
    except UserError as error:
        check_told(error)
        assert conversation.open_turn is None and conversation.turns == []
        return
    assert conversation.columns.shape[1] <= model.max_input_columns


@cases(200, VALUES)
def test_what_the_page_takes_as_text(text: object):
    try:
        assert check_text(text, LIMITS) == text.strip()
    except UserError as error:
        check_told(error)
    if isinstance(text, str):
        assert "\n" not in printable(text) and "\x1b" not in printable(text)


@pytest.mark.parametrize("character", ["好", "a", " ", "\0", "🗣️", "<|im_end|>"])
def test_100_000_characters(model, character: str):
    text = character * (100_000 // len(character))
    with pytest.raises(UserError) as refusal:
        check_text(text, LIMITS)
    check_told(refusal.value)
    with pytest.raises(UserError) as refusal:
        list(generate_long(model, text=text))
    check_told(refusal.value)


@cases(350, VALUES, VALUES, st.dictionaries(
    st.sampled_from(["temperature", "top_p", "repetition_penalty", "seed", "other"]), VALUES
))  # fmt: skip
def test_settings_of_the_page(model, style: object, seconds: object, sampling: dict):
    try:
        made = reply_options(model, LIMITS, style, seconds, sampling)
    except UserError as error:
        check_told(error)
        return
    assert made["style"] in (None, *model.styles)
    assert 1 <= made["max_new_tokens"] <= LIMITS.max_reply_seconds * model.frame_rate + 1
    for field in model.sampling_fields:
        assert field.low <= getattr(made["sampling"], field.name) <= field.high
    assert made["sampling"].seed is None or 0 <= made["sampling"].seed < 2**53


@cases(250, st.tuples(VALUES, VALUES, VALUES, VALUES))
def test_settings_of_sampling(values: tuple):
    names = [field.name for field in dataclasses.fields(SamplingConfig)]
    try:
        sampling = SamplingConfig(**dict(zip(names, values)))
    except UserError as error:
        check_told(error)
        return
    assert all(map(math.isfinite, (sampling.temperature, sampling.top_p)))


@cases(60, st.sampled_from(["style", "voice", "max_new_tokens", "chunk_frames", "text"]), VALUES)
def test_arguments_of_generate_long(model, name: str, value: object):
    given = {"text": "你好", "max_new_tokens": 1, name: value}
    if name == "max_new_tokens" and isinstance(value, int) and value > 5:
        return
    try:
        list(generate_long(model, **given))
    except UserError as error:
        check_told(error)


@cases(150, st.sampled_from([entry.name for entry in dataclasses.fields(Limits)]), TEXTS)
def test_limits_from_the_environment(name: str, value: str):
    try:
        given = options.parse_arguments([], {options.PREFIX + name.upper(): value})
        limits = options.read_limits(given)
    except SystemExit as end:  # argparse has said what was expected
        assert end.code == 2
    except ValueError as error:
        check_told(error)
    else:
        assert getattr(limits, name) > 0
