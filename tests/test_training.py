"""The recipe's trainings: what they learn from, that they learn, and that they resume."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models.dual_ar import DualARConfig, DualARTransformer
from training import codec as codec_training
from training.loop import Stage
from training.preference import _train, log_probability
from training.spelling import Speller

SEMANTIC_ID = 30
CONFIG = DualARConfig(
    vocab_size=32,
    n_layer=1,
    n_head=2,
    dim=32,
    intermediate_size=48,
    n_fast_layer=1,
    codebook_size=12,
    num_codebooks=3,
    max_seq_len=64,
)
READINGS = {"你好": [("n", "i2"), ("X", "Au3")], "好": [("X", "Au3")]}


@pytest.fixture
def model() -> DualARTransformer:
    torch.manual_seed(0)
    return DualARTransformer(CONFIG, SEMANTIC_ID).eval()


def random_frames(num_frames: int, seed: int) -> torch.Tensor:
    """Spoken frames [1+K, n]."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(1, CONFIG.codebook_size, (3, num_frames), generator=generator)
    return torch.cat([torch.full((1, num_frames), SEMANTIC_ID), codes])


def test_a_stage_learns_and_goes_on_where_it_was(tmp_path: Path):
    layer = nn.Linear(1, 1)
    stage = Stage(
        name="line", folder=tmp_path, minutes=0.01, learning_rate=0.1, validate_seconds=0.1
    )
    steps: list[int] = []

    def step(index: int) -> torch.Tensor:
        steps.append(index)
        return (layer(torch.ones(1, 1)) - 3).square().sum()

    stage.run({"layer": layer}, step, lambda index: {"weight": layer.weight.item()})
    with open(tmp_path / "line.csv") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert (tmp_path / "line.png").stat().st_size > 1000

    learned, before = layer.weight.item(), len(steps)
    layer.reset_parameters()
    stage.run({"layer": layer}, step, lambda index: {"weight": layer.weight.item()})
    assert layer.weight.item() == learned and len(steps) == before  # no time is left
    longer = Stage(name="line", folder=tmp_path, minutes=0.012, learning_rate=0.1)
    longer.run({"layer": layer}, step, lambda index: {"weight": layer.weight.item()})
    assert steps == list(range(len(steps))) and len(steps) > before


def test_a_loss_that_is_not_finite_ends_the_stage(tmp_path: Path):
    layer = nn.Linear(1, 1)
    stage = Stage(name="line", folder=tmp_path, minutes=1, learning_rate=0.1)
    with pytest.raises(RuntimeError, match="line: the loss is nan at step 0"):
        stage.run({"layer": layer}, lambda index: layer.weight.sum() * torch.nan, lambda index: {})
    assert not (tmp_path / "line.pt").exists()


def test_the_speller_learns_to_spell():
    torch.manual_seed(0)
    speller = Speller(8, READINGS)
    heard = [torch.randn(9, 8), torch.randn(5, 8)]
    texts = [["你好", "好"], ["好"]]
    optimizer = torch.optim.Adam(speller.parameters(), 0.1)
    losses = []
    for _ in range(60):
        losses.append(speller.loss(heard, texts))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.2 * losses[0]
    assert speller.targets["你好"].tolist()[2:] == speller.targets["好"].tolist()


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Half a minute of noise in pieces of half a second to two and a half seconds."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(11_000, 55_000, 20)
    path = tmp_path / "speech.npy"
    np.save(path, rng.integers(-9000, 9000, lengths.sum()).astype(np.int16))
    starts = np.cumsum([0, *lengths])[:-1].tolist()
    texts = ["你好" if i % 2 else "好" for i in range(20)]
    path.with_suffix(".json").write_text(json.dumps({"texts": texts, "starts": starts}))
    return path


def test_pieces_begin_with_an_utterance_and_know_their_words(recording: Path):
    crops = codec_training.Crops(recording, 0, "cpu")
    wave, ends, texts = crops.draw_utterances(8, 60_000)
    for piece, end, spoken in zip(wave[:, 0], ends, texts):
        first = int(np.flatnonzero((crops.samples[crops.starts] / 32768) == float(piece[0]))[0])
        assert end <= 60_000 and crops.starts[first] + end in crops.starts
        assert spoken == crops.texts[first : first + len(spoken)]


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng: it spells")
def test_the_codec_is_trained_in_two_stages(recording: Path, tmp_path: Path):
    stages = tmp_path / "stages"
    codes = codec_training.train_codes(recording, recording, stages, 0.02, "cpu")
    vocoder = codec_training.train_vocoder(codes, recording, recording, stages, 0.02, "cpu")
    assert vocoder.training is False
    loaded = codec_training.load_codec(codes, stages / "vocoder.pt")
    for (name, a), b in zip(vocoder.state_dict().items(), loaded.state_dict().values()):
        assert torch.equal(a, b), name
    # What the codes are made by stays as stage one left it.
    untouched = codec_training.load_codes(codes).backbone.state_dict()
    assert all(torch.equal(untouched[key], x) for key, x in vocoder.backbone.state_dict().items())


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


def test_preference_moves_away_from_the_bad_replies(model, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("training.preference.LEARNING_RATE", 1e-2)
    pairs = [(random_frames(4, i), random_frames(6, 100), random_frames(6, 200)) for i in range(16)]
    trained = _train(model, pairs, tmp_path, 0.03, "cpu")
    (good, bad), (good_before, bad_before) = (
        log_probability(m, [pairs[0][:2], pairs[0][::2]]) for m in (trained, model)
    )
    assert good - bad > good_before - bad_before
