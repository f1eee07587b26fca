"""Recordings as codes, in shards."""

from pathlib import Path

import numpy as np
import pytest
import torch

from training import files
from training.codec.config import new_codec
from training.language import corpus
from training.language.corpus import (
    REPLY_LEAD_FRAMES,
    draw_silence,
    draw_sound,
    read_spoken,
    write_replies,
    write_sounds,
    write_users,
)
from training.speech import perturbation, recordings
from training.speech.recordings import Line, record

USERS = [
    Line(source="talk.hello", text=text, manner="happy", seed=n)
    for n, text in enumerate(["你好。", "早上好！", "你好吗？"])
]
REPLIES = [Line(source="talk.hello", text="你好，我在。", manner="warm")]


@pytest.fixture
def takes(tmp_path: Path, made_up_teacher, small_models, monkeypatch) -> Path:
    monkeypatch.setattr(recordings, "SHARD_SIZE", 2)
    record(USERS, tmp_path / "takes/users", 1)
    record(REPLIES, tmp_path / "takes/replies", 1)
    return tmp_path / "takes"


def test_users_are_heard_anew_in_every_round(takes: Path, tmp_path: Path):
    codec, folder = new_codec().eval(), tmp_path / "users"
    write_users(codec, takes / "users", folder, 2, seed=3)
    spoken = list(read_spoken(folder))
    assert sorted(s.text for s in spoken) == sorted(2 * [line.text for line in USERS])
    pairs = {}
    for s in spoken:
        assert s.codes.dtype == torch.int16 and s.codes.shape[0] == 8 and s.manner == "happy"
        pairs.setdefault(s.text, []).append(s.codes)
    assert all(not torch.equal(a[:, :4], b[:, :4]) for a, b in pairs.values())
    # Recordings that came since are added; what is there stays.
    names = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    record([*USERS, *USERS], takes / "users", 1)
    write_users(codec, takes / "users", folder, 2, seed=3)
    assert names.items() <= {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}.items()


def test_characters_begin_earlier_in_a_faster_round(takes: Path, tmp_path: Path, monkeypatch):
    codec, by_factor = new_codec().eval(), {}
    for factor in (0.5, 1.0):
        monkeypatch.setattr(corpus, "VARIATION", (factor, factor))
        write_users(codec, takes / "users", tmp_path / str(factor), 1, seed=3)
        by_factor[factor] = list(read_spoken(tmp_path / str(factor)))
    recorded = list(recordings.read(takes / "users"))
    for slow, usual, recording in zip(by_factor[0.5], by_factor[1.0], recorded):
        frames = [onset / corpus.FRAME_SECONDS for onset in recording.onsets]
        assert list(usual.onsets) == [int(frame) for frame in frames]
        assert list(slow.onsets) == [int(2 * frame) for frame in frames]
        assert slow.codes.shape[1] > 1.8 * usual.codes.shape[1]


def test_from_the_second_round_on_others_say_it(takes: Path, tmp_path: Path, monkeypatch):
    def perturb(mel: torch.Tensor, rng: np.random.Generator):
        return mel.repeat_interleave(2, -1), 2.0 * np.arange(mel.shape[-1])

    monkeypatch.setattr(perturbation, "perturb", perturb)
    monkeypatch.setattr(corpus, "VARIATION", (1.0, 1.0))
    write_users(new_codec().eval(), takes / "users", tmp_path / "users", 2, seed=3)
    spoken = list(read_spoken(tmp_path / "users"))
    for line in USERS:
        first, second = (s for s in spoken if s.text == line.text)
        assert second.codes.shape[1] == pytest.approx(2 * first.codes.shape[1], abs=2)
        assert second.onsets == pytest.approx([2 * onset for onset in first.onsets], abs=2)


def test_a_killed_encoding_goes_on(takes: Path, tmp_path: Path, monkeypatch):
    codec, whole, killed = new_codec().eval(), tmp_path / "whole", tmp_path / "killed"
    write_users(codec, takes / "users", whole, 2, seed=3)
    replace, done = Path.replace, []

    def fail(path: Path, target: Path) -> Path:
        done.append(target)
        if len(done) == 2:
            raise OSError("no space is left")
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.Path, "replace", fail)
        with pytest.raises(OSError, match="no space"):
            write_users(codec, takes / "users", killed, 2, seed=3)
    assert len(list(killed.glob("*.pt"))) == 1
    write_users(codec, takes / "users", killed, 2, seed=3)
    for first, second in zip(read_spoken(whole), read_spoken(killed)):
        assert first.text == second.text and torch.equal(first.codes, second.codes)


def test_replies_know_in_which_frame_each_character_begins(takes: Path, tmp_path: Path):
    write_replies(new_codec().eval(), takes / "replies", tmp_path / "replies")
    (reply,) = read_spoken(tmp_path / "replies")
    (recording,) = recordings.read(takes / "replies")
    assert (reply.intent, reply.text, reply.manner) == ("talk.hello", "你好，我在。", "warm")
    assert reply.codes.shape[1] == REPLY_LEAD_FRAMES + -(-len(recording.wave) // 1024)
    assert len(reply.onsets) == 4 and reply.onsets[-1] < reply.codes.shape[1]
    assert list(reply.onsets) == [
        REPLY_LEAD_FRAMES + int(s * 22050 / 1024) for s in recording.onsets
    ]


def test_a_reply_stands_in_silence(takes: Path, tmp_path: Path):
    codec = new_codec().eval()
    write_replies(codec, takes / "replies", tmp_path / "replies")
    (reply,) = read_spoken(tmp_path / "replies")
    (recording,) = recordings.read(takes / "replies")
    assert len(recording.wave) % 1024
    wave = np.zeros(reply.codes.shape[1] * 1024, np.float32)
    start = REPLY_LEAD_FRAMES * 1024
    wave[start : start + len(recording.wave)] = recording.wave.astype(np.float32) / 32768
    assert torch.equal(reply.codes, corpus.encode(codec, wave))


def test_sounds_are_unclear_or_silent(takes: Path, tmp_path: Path, monkeypatch):
    path, perturb, perturbed = tmp_path / "sounds/sounds.pt", perturbation.perturb, []
    monkeypatch.setattr(
        perturbation, "perturb", lambda *given: perturbed.append(given) or perturb(*given)
    )
    codec = new_codec().eval()
    write_sounds(codec, takes / "users", path, 8, seed=6)
    assert 0 < len(perturbed) < 6  # of the sounds
    sounds = list(read_spoken(path.parent))
    assert [s.intent for s in sounds] == 2 * [*3 * ["unknown.unclear"], "unknown.silence"]
    assert all(s.text == "" and s.codes.shape[1] > 4 for s in sounds)
    before = path.stat().st_mtime_ns
    write_sounds(codec, takes / "users", path, 8, seed=6)
    assert path.stat().st_mtime_ns == before


def test_silence_is_quiet_and_sounds_are_of_all_kinds():
    waves = [np.random.default_rng(1).standard_normal(20_000).astype(np.float32) * 0.1]
    rng = np.random.default_rng(0)
    for _ in range(20):
        silence = draw_silence(rng)
        assert 0.8 * 22050 - 1 <= len(silence) <= 4 * 22050 + 1
        assert 0 < np.sqrt(np.mean(silence**2)) <= 10 ** (corpus.SILENCE_DB[1] / 20) * 1.01
        sound = draw_sound(waves, rng)
        assert sound.dtype == np.float32 and np.isfinite(sound).all()
        assert np.sqrt(np.mean(sound**2)) > 1e-3
