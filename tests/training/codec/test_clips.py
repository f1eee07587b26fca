"""Recordings as long waves, and pieces of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from recipe import make_recording

from training import files
from training.codec import clips
from training.codec.clips import FRAME, CodedCrops, Crops, write_clips, write_shifted_clips
from training.codec.config import new_codec

RECORDINGS = [
    make_recording("你好。", "happy", 1),
    make_recording("你好，我在。", "warm", None),
    make_recording("早上好！", "sad", 2),
]


def test_clips_hold_the_assistant_as_it_is_and_users_as_they_are_heard(
    tmp_path: Path, made_up_teacher
):
    path = tmp_path / "clips.npy"
    write_clips(RECORDINGS, path, seed=1, rounds=2)
    wave = np.load(path)
    assert wave.dtype == np.int16 and list(tmp_path.iterdir()) == [path]
    windows = np.lib.stride_tricks.sliding_window_view(wave, 50)
    found = [(windows == r.wave[1000:1050]).all(axis=1).any() for r in RECORDINGS]
    assert found == [False, True, False]
    users = 2 * sum(len(r.wave) for r in RECORDINGS if r.line.seed is not None)
    assert 0.85 * users < len(wave) - len(RECORDINGS[1].wave) < 1.15 * users
    write_clips(RECORDINGS, tmp_path / "again.npy", seed=1, rounds=2)
    np.testing.assert_array_equal(wave, np.load(tmp_path / "again.npy"))


def test_clean_clips_hold_users_as_they_are_and_varied_and_no_noise(
    tmp_path: Path, made_up_teacher, monkeypatch
):
    monkeypatch.setattr(clips, "Microphone", None)
    users = [recording for recording in RECORDINGS if recording.line.seed is not None]
    write_clips(users, tmp_path / "clips.npy", seed=1, clean=True)
    wave = np.load(tmp_path / "clips.npy")
    windows = np.lib.stride_tricks.sliding_window_view(wave, 50)
    for recording in users:
        assert (windows == recording.wave[1000:1050]).all(axis=1).sum() == 1
    whole = sum(len(recording.wave) for recording in users)
    assert 1.85 * whole < len(wave) < 2.15 * whole and len(wave) != 2 * whole


def test_shifted_clips_are_other_codes_of_the_same_speech(clip: Path, tmp_path: Path):
    write_shifted_clips(clip, tmp_path / "shifted.npy")
    wave, shifted = np.load(clip), np.load(tmp_path / "shifted.npy")
    length = len(wave) // FRAME * FRAME
    assert shifted.dtype == np.int16 and len(shifted) == 4 * length
    for part, start in zip(shifted.reshape(4, length), (0, 256, 512, 768)):
        np.testing.assert_array_equal(part[: length - start], wave[start:length])
        assert not part[length - start :].any()


def test_clips_that_were_killed_are_not_there(tmp_path: Path, made_up_teacher, monkeypatch):
    def save(file, wave):
        file.write(b"half")
        raise OSError("no space is left")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", save)
        with pytest.raises(OSError, match="no space"):
            write_clips(RECORDINGS, tmp_path / "clips.npy", seed=1)
    assert not (tmp_path / "clips.npy").exists()
    write_clips(RECORDINGS, tmp_path / "clips.npy", seed=1)
    assert len(np.load(tmp_path / "clips.npy")) > 30_000


def test_pieces_come_from_the_files_by_their_shares(tmp_path: Path):
    for name, value in (("a", 1000), ("b", 2000)):
        np.save(tmp_path / f"{name}.npy", np.full(9000, value, np.int16))
    crops = Crops({tmp_path / "a.npy": 0.8, tmp_path / "b.npy": 0.2}, 0, "cpu")
    wave = crops.draw(3, 500, 512)
    assert wave.shape == (500, 1, 512) and wave.dtype == torch.float32
    levels = (wave[:, 0, 0] * 32768).tolist()
    assert set(levels) == {1000, 2000} and 0.7 < levels.count(1000) / 500 < 0.9
    assert torch.equal(wave, crops.draw(3, 500, 512))


def test_coded_pieces_are_codes_and_their_wave(clip: Path, small_models):
    codec = new_codec().eval()
    crops = CodedCrops(codec, {clip: 1.0}, 0, "cpu")
    codes, wave = crops.draw_coded(5, 3, 10)
    assert codes.shape == (3, 8, 10) and codes.dtype == torch.long
    assert wave.shape == (3, 1, 10 * FRAME)
    assert not torch.equal(wave, crops.draw_coded(6, 3, 10)[1])
    whole = torch.from_numpy(np.load(clip) / np.float32(32768))
    frames = len(whole) // FRAME
    with torch.no_grad():
        expected, _ = codec.encode(
            whole[None, None, : frames * FRAME], torch.tensor([frames * FRAME])
        )
    for row, piece in zip(codes, wave):
        start = next(
            n for n in range(frames) if torch.equal(whole[n * FRAME :][:64], piece[0, :64])
        )
        assert (row == expected[0, :, start : start + 10]).float().mean() > 0.99
    saved = torch.load(clip.with_suffix(".codes.pt"), weights_only=True)
    assert saved.shape == (8, frames)


def test_codes_that_were_killed_are_made_again(clip: Path, small_models, monkeypatch):
    codec = new_codec().eval()

    def fail(path: Path, target: Path):
        raise OSError("no space is left")

    with monkeypatch.context() as patch:
        patch.setattr(files.Path, "replace", fail)
        with pytest.raises(OSError, match="no space"):
            CodedCrops(codec, {clip: 1.0}, 0, "cpu")
    assert not clip.with_suffix(".codes.pt").exists()
    CodedCrops(codec, {clip: 1.0}, 0, "cpu")
    assert clip.with_suffix(".codes.pt").exists()
