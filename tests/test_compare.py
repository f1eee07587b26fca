"""The benchmarks of Mini-Omni, and of the families side by side."""

import dataclasses

import pytest

from benchmarks import compare
from benchmarks.mini_omni import measure


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(compare, "SECONDS", 0.5)
    monkeypatch.setattr(compare, "NUM_FRAMES", 6)


def test_every_part_of_mini_omni_is_measured(mini_omni):
    figures = measure(mini_omni, 0.5, position=20, num_columns=3, chunk_frames=2)
    numbers = {key: value for key, value in figures.items() if not isinstance(value, str)}
    assert all(value > 0 for value in numbers.values())
    assert figures["weight_bytes"] >= 4 * figures["parameters"]
    assert figures["first_text_seconds"] <= figures["first_sound_seconds"]


def test_a_turn_is_timed(mini_omni):
    text, sound, work = compare.turn_seconds(mini_omni, 0)
    assert 0 < text <= sound and work > 0


def test_the_table_has_a_line_for_each_system():
    row = compare.Row(
        system="A",
        dtype="int8",
        accepts="audio, text",
        languages="English",
        parameters=600_000_000,
        weight_bytes=1_250_000_000,
        first_text_seconds=0.5,
        first_sound_seconds=1.25,
        real_time_factor=0.4,
    )
    lines = compare.table([row, dataclasses.replace(row, system="B")]).splitlines()
    assert lines[2] == (
        "| A | int8 | audio, text | English | 600 M | 1.25 GB | 0.50 s | 1.25 s | 0.40 s |"
    )
    assert len({line.count("|") for line in lines}) == 1 and len(lines) == 4
