"""Checkpoint folders and conversation files that are damaged, or made to do harm."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cases import SECRET, cases, check_told, damaged
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from small import small_model
from small_checkpoint import change_json, new_model, save_small

from models.errors import UserError
from models.load import load_model
from models.weights import read_weights
from models.westlake.checkpoint import load_checkpoint
from models.westlake.checkpoint_files import read_config
from models.westlake.dual_ar import DualARConfig
from models.westlake.firefly import FireflyConfig

pytestmark = pytest.mark.slow
CONFIGS = {"config.json": DualARConfig, "codec_config.json": FireflyConfig}
REFUSED = "at most|where .* is expected|table|the codec 8 of|lacks keys|unexpected keys"
MAX_MEMORY = 400 << 20  # more than a refusal may take for a moment
DAMAGE = (
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8),
    st.one_of(st.just(1.0), st.floats(0, 1)),
)
VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10),
        st.integers(0, 64), st.sampled_from([1 << 20, 1 << 24, 1 << 31, 10**400]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=5), inner, max_size=2)
    ),
    max_leaves=5,
)  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory, small_codec) -> Path:
    return save_small(tmp_path_factory.mktemp("saved"), new_model(), small_codec)


@pytest.fixture
def folder(tmp_path: Path, saved: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp(SECRET)


def resident(name: str) -> int:
    """Bytes that are resident now (VmRSS), or were at most since `clear_refs` (VmHWM)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{name}:\s+(\d+) kB", status)[1])


@pytest.fixture
def bounded() -> Iterator[None]:
    """What is done meanwhile takes no more memory than a refusal may."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
    before = resident("VmRSS")
    yield
    assert resident("VmHWM") - before < MAX_MEMORY


@cases(350, st.sampled_from(sorted(CONFIGS)), st.data())
def test_any_values_in_a_config(saved, work, name: str, data):
    values = json.loads((saved / name).read_text())
    key = data.draw(st.sampled_from([*values, "unknown"]))
    values[key] = data.draw(VALUES)
    (work / name).write_text(json.dumps(values))
    try:
        config = read_config(work / name, CONFIGS[name])
    except ValueError:
        return
    assert isinstance(config, CONFIGS[name])


@cases(150, st.sampled_from(sorted(CONFIGS)), *DAMAGE)
def test_damaged_configs(saved, work, name: str, changes: list, end: float):
    (work / name).write_bytes(damaged((saved / name).read_bytes(), changes, end))
    try:
        read_config(work / name, CONFIGS[name])
    except ValueError:
        return


def weights_of(kind: str) -> dict[str, torch.Tensor]:
    return {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}


@cases(300, st.sampled_from((".safetensors", ".pth")), *DAMAGE)
def test_damaged_weights(work, kind: str, changes: list, end: float):
    whole, path = work / f"whole{kind}", work / f"damaged{kind}"
    if not whole.exists():
        save = save_file if kind == ".safetensors" else torch.save
        save(weights_of(kind), whole)
    path.write_bytes(damaged(whole.read_bytes(), changes, end))
    try:
        weights = read_weights(path)
    except ValueError:
        return
    assert all(tensor.isfinite().all() for tensor in weights.values())


HEADERS = st.fixed_dictionaries({}, optional={
    "dtype": st.sampled_from(["F32", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "F4", "x"]),
    "shape": st.lists(st.one_of(st.integers(0, 8), st.integers(-2, 2**63)), max_size=4),
    "data_offsets": st.lists(st.one_of(st.integers(0, 64), st.integers(-2, 2**63)), max_size=3),
})  # fmt: skip


@cases(300, st.dictionaries(st.text(max_size=5), HEADERS, max_size=3), st.binary(max_size=64),
       st.one_of(st.none(), st.integers(0, 2**64 - 1)))  # fmt: skip
def test_headers_that_lie(work, header: dict, content: bytes, length: int | None):
    text = json.dumps(header).encode()
    size = struct.pack("<Q", len(text) if length is None else length)
    path = work / "lying.safetensors"
    path.write_bytes(size + text + content)
    try:
        weights = read_weights(path)
    except ValueError:
        return
    assert sum(tensor.nbytes for tensor in weights.values()) <= len(content)


class Harmful:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ["model.pth", "pytorch_model.bin"])
def test_code_in_a_pickle_is_not_run(folder, tmp_path, name: str, protocol: int):
    (folder / "model.safetensors").unlink()
    for write in (pickle.dump, torch.save):
        with (folder / name).open("wb") as file:
            write({"norm.weight": Harmful(tmp_path / "harm")}, file, pickle_protocol=protocol) if (
                write is torch.save
            ) else write({"norm.weight": Harmful(tmp_path / "harm")}, file, protocol)
        with pytest.raises(ValueError, match="never run"):
            load_checkpoint(folder)
    assert not (tmp_path / "harm").exists()


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("config.json", {"max_seq_len": 1 << 20, "dim": 1 << 16, "n_head": 1, "head_dim": 1 << 16,
                         "n_local_heads": 1, "n_local_heads_fast": 1}),
        ("config.json", {"vocab_size": 1 << 24, "dim": 1 << 16, "head_dim": 1 << 14}),
        ("config.json", {"n_layer": 1 << 10, "intermediate_size": 1 << 24}),
        ("config.json", {"n_head": 1 << 15, "dim": 1 << 16, "head_dim": 2}),
        ("codec_config.json", {"decoder_dim": 1 << 13}),
        ("codec_config.json", {"encoder_dims": [1 << 13] * 4}),
        ("codec_config.json", {"encoder_depths": [1 << 10] * 4}),
        ("codec_config.json", {"n_fft": 1 << 24}),
        ("codec_config.json", {"n_fft": 1 << 16, "n_mels": 1 << 16}),
        ("codec_config.json", {"fsq_levels": [1 << 10] * 6}),
        ("codec_config.json", {"resblock_kernel_sizes": [1 << 24]}),
        ("codec_config.json", {"encoder_kernel_size": 1 << 24}),
        ("codec_config.json", {"decoder_kernel_size": 1 << 24}),
    ],
)  # fmt: skip
def test_absurd_sizes_are_refused_before_memory_is_taken(folder, name: str, changes: dict):
    change_json(folder / name, **changes)
    with pytest.raises(ValueError, match=REFUSED) as refusal:
        load_checkpoint(folder, dtype="float32")
    assert "alloc" not in str(refusal.value)  # the memory was not even asked for


@cases(30, st.sampled_from(("config.json", "codec_config.json", "generation_config.json",
                            "tokenizer.json", "tokenizer_config.json", "model.safetensors",
                            "codec.safetensors")), *DAMAGE)  # fmt: skip
def test_damaged_folders(saved, work, name: str, changes: list, end: float):
    folder = work / "folder"
    if not folder.exists():
        shutil.copytree(saved, folder)
    whole = (saved / name).read_bytes()
    (folder / name).write_bytes(damaged(whole, changes, end))
    try:
        load_model(folder, dtype="float32")
    except ValueError as error:
        assert str(error)
    finally:
        (folder / name).write_bytes(whole)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"model_type": ["a"]}', '{"a":' * 50_000])
def test_nested_configs(folder, content: str):
    (folder / "config.json").write_text(content)
    with pytest.raises(ValueError):
        load_model(folder)


@pytest.fixture(scope="module")
def spoken(small_codec, work):
    """A model, and a conversation file of one turn."""
    model = small_model(small_codec)
    conversation = model.new_conversation()
    turn = conversation.begin_turn("你好")
    turn.finish()
    conversation.end_turn(torch.ones(9, 3, dtype=torch.long))
    conversation.save(work / "whole.conversation")
    return model, (work / "whole.conversation").read_bytes()


@cases(200, *DAMAGE)
def test_damaged_conversations(spoken, work, changes: list, end: float):
    model, whole = spoken
    path = work / "damaged.conversation"
    path.write_bytes(damaged(whole, changes, end))
    try:
        conversation = model.load_conversation(path)
    except UserError as error:
        check_told(error)
        return
    grid = conversation.columns
    assert grid.min() >= 0 and grid[0].max() < model.checkpoint.model.config.vocab_size


@cases(
    200,
    st.text(max_size=12),
    st.dictionaries(
        st.text(max_size=12), st.lists(st.integers(0, 3), min_size=0, max_size=3), max_size=3
    ),
    st.sampled_from(["int64", "float32"]),
)
def test_conversations_of_any_content(spoken, work, lengths: str, shapes: dict, dtype: str):
    model, _ = spoken
    path = work / "made.conversation"
    tensors = {
        key: torch.zeros(shape, dtype=getattr(torch, dtype)) for key, shape in shapes.items()
    }
    metadata = {"checkpoint": model.checkpoint.fingerprint, "prompt_lengths": lengths}
    try:
        save_file(tensors, path, metadata)
    except Exception:  # names that no such file can have
        return
    try:
        assert len(model.load_conversation(path).turns) == len(shapes)
    except UserError as error:
        check_told(error)


def test_nan_in_the_weights(folder):
    weights = load_file(folder / "model.safetensors")
    for key in weights:
        broken = {**weights, key: torch.full_like(weights[key], float("nan"))}
        save_file(broken, folder / "model.safetensors")
        with pytest.raises(ValueError, match="damaged"):
            load_checkpoint(folder)
