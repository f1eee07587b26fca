"""The benchmark of GPUs, as far as it goes without one: every part tells its figures in order."""

import json

import pytest
from omni_small import small_config

from benchmarks import gpu
from models.omni.config import quiet
from models.omni.sampling import FlowConfig

pytestmark = pytest.mark.usefixtures("few_to_collect")
PARTS = ["machine", "one user", "first sound", "users", "codec"]
PARTS += ["tiny, one user", "tiny, first sound", "omni 3b"]


@pytest.fixture(autouse=True)
def small(monkeypatch) -> None:
    with quiet():
        config = small_config(inner=128, width=64)
    for name, value in {
        "memory_bandwidth": lambda device: 1e9,
        "config_of": lambda shape: config,
        "FlowConfig": lambda: FlowConfig(num_steps=2),
        "REFERENCE": 40,
        "REPLY_FRAMES": 4,
        "HEARD_SECONDS": 0.5,
        "RUNS": 1,
        "CODEC_FRAMES": 8,
    }.items():
        monkeypatch.setattr(gpu, name, value)


def told(capsys, *options: str) -> list[dict]:
    gpu.main(["--device=cpu", "--shape=tiny", "--frames=2", "--users", "2", *options])
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_every_part_tells_its_figures(capsys):
    about, *lines = told(capsys)
    assert about["device"] == "cpu"
    assert list(dict.fromkeys(line["part"] for line in lines)) == PARTS
    assert not [line for line in lines if "error" in line]
    figures = {(line["part"], name): line[name] for line in lines for name in line}
    for name in ("frames_per_second", "frames_per_second_without_graphs", "share_of_limit"):
        assert figures["one user", name] > 0
    assert figures["users", "of_each"] == pytest.approx(
        figures["users", "frames_per_second"] / 2, rel=1e-3
    )
    times = [figures["first sound", name] for name in ("first_frame", "first_sound")]
    assert 0 < times[0] < times[1]
    assert figures["omni 3b", "first_sound_seconds"] > figures["omni 3b", "first_text_seconds"] > 0


def test_a_part_that_fails_leaves_the_others(capsys, monkeypatch):
    def fail(checkpoint):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(gpu, "first_sound", fail)
    lines = told(capsys, "--omni")[1:]
    errors = [line["part"] for line in lines if line.get("error")]
    assert errors == ["first sound", "tiny, first sound"]
    assert {"users", "codec", "tiny, one user"} <= {line["part"] for line in lines}


def test_it_ends_when_time_is_up(capsys):
    with pytest.raises(SystemExit, match="time is up in the part 'machine'"):
        told(capsys, "--minutes=0")
    assert '"part": "machine"' in capsys.readouterr().out
