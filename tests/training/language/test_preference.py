"""Preference: log probabilities, and what is learned from pairs."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from recipe import recogniser_of

from models.tokenizer import mark_ids
from models.westlake.dual_ar import DualARConfig, DualARTransformer, SamplingConfig
from training import loop
from training.codec.config import new_codec
from training.language import preference
from training.language.preference import _train, log_probability, speak, train_preference

SEMANTIC_ID = 30
CONFIG = DualARConfig(
    vocab_size=32, n_layer=1, n_head=2, dim=32, intermediate_size=48, n_fast_layer=1,
    codebook_size=12, num_codebooks=3, max_seq_len=64,
)  # fmt: skip


@pytest.fixture
def model() -> DualARTransformer:
    torch.manual_seed(0)
    return DualARTransformer(CONFIG, SEMANTIC_ID).eval()


def random_frames(num_frames: int, seed: int) -> torch.Tensor:
    """Spoken frames [1+K, n]."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(1, CONFIG.codebook_size, (3, num_frames), generator=generator)
    return torch.cat([torch.full((1, num_frames), SEMANTIC_ID), codes])


PAIRS = [(random_frames(4, i), random_frames(6, 100), random_frames(6, 200)) for i in range(16)]


def test_log_probability_is_that_of_every_token_and_code(model):
    prompt, reply = random_frames(5, 1), random_frames(4, 2)
    end = torch.zeros(4, 1, dtype=torch.long)
    end[0] = 7
    with torch.no_grad():
        found = log_probability(model, [(prompt, torch.cat([reply, end], 1)), (prompt, reply)])
        logits, hidden = model(torch.cat([prompt, reply], dim=1)[None])
        text = logits[0, 4:].log_softmax(-1)
        codes = model.forward_fast(hidden[0, 4:-1], reply[1:3].T).log_softmax(-1)
        expected = text[:-1, SEMANTIC_ID].sum() + codes.gather(2, reply[1:].T[..., None]).sum()
    torch.testing.assert_close(found, torch.stack([expected + text[-1, 7], expected]))


def test_marks_are_neither_heard_nor_compared(conversations, monkeypatch):
    class Ear:
        heard = []

        def error_rate(self, text, wave, sample_rate):
            self.heard.append(len(wave))
            return 0.0

    monkeypatch.setattr(preference, "NUM_ROWS", 2)
    monkeypatch.setattr(preference, "MAX_FRAMES", 6)
    config = replace(
        CONFIG, vocab_size=1 + max(conversations.tokenizer.get_vocab().values()),
        codebook_size=1001, num_codebooks=8, max_seq_len=1024,
    )  # fmt: skip
    model, codec = DualARTransformer(config, conversations.tokens.semantic).eval(), new_codec()
    samples = speak(model, codec, conversations, Ear(), 2, SamplingConfig(), seed=0)
    marks = mark_ids(conversations.tokenizer)
    for sample in samples:
        for columns in (sample.own, sample.good[:, :-1]):
            is_mark = torch.tensor([id in marks for id in columns[0].tolist()])
            assert is_mark.sum() >= 3
            assert torch.equal(columns[1:].any(dim=0), ~is_mark)
    assert Ear.heard == [6 * codec.config.samples_per_frame] * 2


def test_preference_moves_away_from_the_bad_replies(model, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(preference, "LEARNING_RATE", 1e-2)
    trained = _train(model, PAIRS, tmp_path, 0.02, "cpu")
    (good, bad), (good_before, bad_before) = (
        log_probability(m, [PAIRS[0][:2], PAIRS[0][::2]]) for m in (trained, model)
    )
    assert good - bad > good_before - bad_before


def test_a_resumed_training_is_the_uninterrupted_one(model, tmp_path: Path, monkeypatch):
    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            self.now += 1
            return self.now

    monkeypatch.setattr(loop, "time", Clock())
    stage = loop.Stage
    monkeypatch.setattr(preference, "Stage", lambda **k: stage(**{**k, "validate_seconds": 2}))
    monkeypatch.setattr(preference, "LEARNING_RATE", 1e-2)
    whole = _train(model, PAIRS, tmp_path / "whole", 4 / 60, "cpu")
    real, calls = preference.log_probability, []

    def fail(*args):
        calls.append(args)
        if len(calls) == 9:  # in the fourth step, after two steps, a validation and one more step
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(preference, "log_probability", fail)
        with pytest.raises(KeyboardInterrupt):
            _train(model, PAIRS, tmp_path / "killed", 4 / 60, "cpu")
    resumed = _train(model, PAIRS, tmp_path / "killed", 4 / 60, "cpu")
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


def test_too_few_pairs_leave_the_model_as_it_is(model, tmp_path: Path, conversations, small_models):
    torch.save(PAIRS[:3], tmp_path / "preference_pairs.pt")
    others = new_codec(), conversations, recogniser_of(["a1"]), SamplingConfig()
    train_preference(model, *others, tmp_path, 1, "cpu")
    kept = torch.load(tmp_path / "preferred.pt", weights_only=True)
    assert all(torch.equal(kept[name], weight) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("name", ["preference_pairs.pt", "preferred.pt"])
def test_what_was_not_written_whole_is_not_there(
    model, tmp_path: Path, conversations, small_models, monkeypatch, name: str
):
    others = new_codec(), conversations, recogniser_of(["a1"]), SamplingConfig()
    monkeypatch.setattr(preference, "speak", lambda *given, **how: [])
    save = torch.save

    def fail(state, path: Path) -> None:
        if path.name.startswith(name):
            path.write_bytes(b"half")
            raise OSError("no space is left")
        save(state, path)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fail)
        with pytest.raises(OSError, match="no space"):
            train_preference(model, *others, tmp_path, 1, "cpu")
    assert not (tmp_path / name).exists()
    train_preference(model, *others, tmp_path, 1, "cpu")
    assert (tmp_path / name).exists()
