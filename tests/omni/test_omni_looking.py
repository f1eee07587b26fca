"""Pictures and video: read, cut and placed as published; what can't be, is told."""

import struct
import subprocess
import sys

import av
import numpy as np
import pytest
import soundfile
import torch
from omni_talk import LONG, ask, assert_same, features, picture, published_answer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from models.audio import load_audio, resample
from models.errors import UserError
from models.omni import pictures, video
from models.omni.look import encode_patches
from models.omni.pictures import PatchSettings, load_picture, picture_patches
from models.omni.video import load_video

SETTINGS = PatchSettings(patch=14, merge=2, frames=2)
RATE = 16_000


def write_video(path, seconds=2.5, sound=True, fps=8):
    """Frames of another grey each, and a tone."""
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("aac", rate=RATE, layout="mono") if sound else None
        for place in range(int(seconds * fps)):
            grey = np.full((48, 64, 3), min(255, 10 * place), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey)))
        container.mux(stream.encode())
        if audio is not None:
            tone = np.sin(np.arange(int(seconds * RATE)) / 9).astype(np.float32)[None] / 2
            frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            frame.sample_rate = RATE
            container.mux(audio.encode(frame))
            container.mux(audio.encode())
    return path


@pytest.mark.parametrize("size", [(90, 60), (28, 28), (10, 300), (3000, 1000), (1500, 1600)])
def test_a_picture_is_cut_as_published(size):
    shown = picture(*size)
    area = 28 * 28
    published = Qwen2VLImageProcessorPil(
        size={"shortest_edge": 4 * area, "longest_edge": pictures.MAX_TOKENS * area}
    )(shown, return_tensors="pt")
    ours = picture_patches(shown, SETTINGS)
    assert list(ours.grid) == published["image_grid_thw"][0].tolist()
    torch.testing.assert_close(ours.pixels, published["pixel_values"], rtol=0, atol=2e-6)
    assert len(ours.pixels) <= 4 * pictures.MAX_TOKENS


def test_pictures_come_as_files_images_and_arrays(tmp_path):
    shown = picture()
    shown.save(tmp_path / "a.png")
    turned = shown.copy()
    turned.getexif()[0x0112] = 6  # the camera was held sideways
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), shown, np.asarray(shown)):
        np.testing.assert_array_equal(np.asarray(load_picture(source)), np.asarray(shown))
    shown.rotate(90, expand=True).save(tmp_path / "b.png", exif=turned.getexif())
    np.testing.assert_array_equal(np.asarray(load_picture(tmp_path / "b.png")), np.asarray(shown))


def test_a_picture_is_answered_as_published(omni, published):
    shown = picture()
    seen = picture_patches(shown, SETTINGS)
    inputs = {"pixel_values": seen.pixels, "image_grid_thw": torch.tensor([seen.grid])}
    answer = ask(omni, text=LONG, image=shown, frames=30)
    assert_same(answer, published_answer(published, answer, 30, **inputs))
    sound = torch.sin(torch.arange(RATE) / 7) / 3
    answer = ask(omni, sound=sound, pieces=(RATE,), image=shown, frames=30)
    expected = published_answer(published, answer, 30, **inputs, **features(sound))
    assert_same(answer, expected)


@pytest.mark.parametrize("with_sound", [False, True])
def test_a_video_is_answered_as_published(omni, published, tmp_path, with_sound):
    path = write_video(tmp_path / "a.mp4", sound=with_sound)
    seen, clip = load_video(path, SETTINGS)
    inputs = {
        "pixel_values_videos": seen.pixels,
        "video_grid_thw": torch.tensor([seen.grid]),
        "video_second_per_grid": torch.tensor([1.0]),
    }
    assert (clip is not None) == with_sound and seen.grid[0] == 3
    if clip is not None:
        inputs |= features(resample(clip, RATE)[0, 0]) | {"use_audio_in_video": True}
    answer = ask(omni, text=LONG, video=path, frames=30)
    assert_same(answer, published_answer(published, answer, 30, **inputs))


def test_two_frames_a_second_are_seen_in_their_order(tmp_path):
    seen, _ = load_video(write_video(tmp_path / "a.mp4", seconds=3), SETTINGS)
    steps, rows, columns = seen.grid
    assert steps == 3
    frames = seen.pixels.reshape(3, rows * columns, 3, 2, -1)
    grey = frames.mean(dim=(1, 2, 4)).flatten() * np.mean(pictures.DEVIATION) * 255
    grey = grey + np.mean(pictures.MEAN) * 255
    expected = torch.tensor([0.0, 40, 80, 120, 160, 200])  # frames 0, 4, 8 ... of 8 a second
    assert (grey - expected).abs().max() < 6


def test_a_long_video_is_seen_in_parts(omni):
    frames = [np.asarray(picture(56, 56, seed)) for seed in range(22)]
    patches = pictures.patches_of(frames, SETTINGS)
    tower = omni.checkpoint.vision_tower
    with torch.no_grad():
        whole = tower(patches.pixels, grid_thw=torch.tensor([patches.grid])).pooler_output
    torch.testing.assert_close(encode_patches(omni.checkpoint, patches), whole)


def refused(call, *arguments, **options) -> UserError:
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    return caught.value


def test_bad_pictures_are_told(tmp_path, monkeypatch):
    picture().save(tmp_path / "a.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:300])
    (tmp_path / "text.png").write_text("no picture")
    picture(600, 2).save(tmp_path / "thin.png")
    for source, code in {
        tmp_path / "cut.jpg": "error_picture_unreadable",
        tmp_path / "text.png": "error_picture_unreadable",
        tmp_path / "none.png": "error_no_file",
        tmp_path / "thin.png": "error_picture_shape",
        tmp_path: "error_no_file",
        "\0": "error_no_file",
        7: "error_picture_kind",
    }.items():
        assert refused(load_picture, source).code == code
    assert refused(load_picture, np.zeros((4, 4), np.uint8)).code == "error_picture_array"
    monkeypatch.setattr(pictures, "MAX_PIXELS", 1000)
    assert refused(load_picture, tmp_path / "a.jpg").code == "error_picture_large"
    monkeypatch.setattr(pictures, "MAX_BYTES", 100)
    assert refused(load_picture, tmp_path / "a.jpg").code == "error_file_large"


def test_bad_videos_are_told(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", seconds=2)
    (tmp_path / "cut.mp4").write_bytes(path.read_bytes()[:800])
    (tmp_path / "text.mp4").write_text("no video at all")
    soundfile.write(tmp_path / "a.wav", np.zeros(100), RATE)
    with av.open(tmp_path / "sound.mp4", "w") as container:
        stream = container.add_stream("aac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, RATE), np.float32), "fltp", "mono")
        frame.sample_rate = RATE
        container.mux([*stream.encode(frame), *stream.encode()])
    for name, code in {
        "cut.mp4": "error_video_unreadable",
        "text.mp4": "error_video_unreadable",
        "a.wav": "error_video_unreadable",
        "sound.mp4": "error_no_pictures",
        "none.mp4": "error_no_file",
    }.items():
        assert refused(load_video, tmp_path / name, SETTINGS).code == code, name
    assert refused(load_video, 7, SETTINGS).code == "error_video_kind"
    monkeypatch.setattr(video, "MAX_SECONDS", 1.0)
    error = refused(load_video, path, SETTINGS)
    assert error.code == "error_video_long" and error.values["seconds"] == pytest.approx(2.0)


def test_a_video_whose_decoder_ends_early_is_unreadable(tmp_path, monkeypatch):
    decoder = tmp_path / "decoder.py"
    said = b'{"num_frames": 2, "seconds": 1.0}\n' + struct.pack("<II", 28, 28) + bytes(3 * 28 * 28)
    decoder.write_text(f"import sys; sys.stdout.buffer.write({said!r})")
    monkeypatch.setattr(video, "DECODER", decoder)
    path = write_video(tmp_path / "a.mp4", seconds=1)
    assert refused(load_video, path, SETTINGS).code == "error_video_unreadable"


def test_an_hour_of_video_is_refused_before_it_is_decoded(tmp_path):
    """Frames of a minute each; a decoder that looked at them would say what they show."""
    path = tmp_path / "hour.mkv"
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for place in range(61):
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8))
            frame.pts = place * 8 * 60
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    error = refused(load_video, path, SETTINGS)
    assert error.code == "error_video_long" and 3600 <= error.values["seconds"] < 3700
    command = [sys.executable, "-I", video.DECODER, "matroska", "60", "2"]
    with path.open("rb") as file:
        said = subprocess.run(command, stdin=file, capture_output=True, timeout=60).stdout
    assert said.count(b"\n") == 1 and said.endswith(b"\n")


def test_a_refused_picture_leaves_the_conversation_as_it_was(omni):
    conversation = omni.new_conversation()
    ask(omni, conversation, text="abc", frames=5)
    before = conversation.segments
    assert refused(conversation.begin_turn, "hello", image=7).code == "error_picture_kind"
    assert conversation.segments == before and conversation.open_turn is None


def test_the_sound_of_a_video_is_its_own(tmp_path):
    path = write_video(tmp_path / "a.webm.mp4", seconds=2)
    _, clip = load_video(path, SETTINGS)
    assert torch.equal(clip.samples, load_audio(path).samples)
