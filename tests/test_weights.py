"""Weight files: what is read, what is refused and why, how they are written."""

import errno
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from models.weights import assign_weights, read_weights, write_weights

SUFFIXES = [".safetensors", ".pth"]


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    return {"weight": torch.randn(50, 20), "bias": torch.randn(50)}


def save(path: Path, content: object) -> Path:
    if path.suffix == ".pth":
        torch.save(content, path)
    else:
        save_file(content, path)
    return path


def equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[key], expected[key]) for key in found
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_weights_are_read(tmp_path, weights, suffix):
    assert equal(read_weights(save(tmp_path / f"a{suffix}", weights)), weights)


@pytest.mark.parametrize("zipped", [False, True])
def test_pth_files_old_new_and_nested(tmp_path, weights, zipped):
    path = tmp_path / "a.pth"
    torch.save({"state_dict": weights, "step": 5}, path, _use_new_zipfile_serialization=zipped)
    assert equal(read_weights(path), weights)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("size", [0, 7, 1000, -1])
def test_cut_off_files(tmp_path, weights, suffix, size):
    path = save(tmp_path / f"a{suffix}", weights)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=f"{path} can't be read as weights.*cut off"):
        read_weights(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_text_is_no_weights(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    for text in ("hello, these are no weights", "", "(lp0\nI1\na.", "{}", "\n"):
        path.write_text(text)
        with pytest.raises(ValueError, match=f"{path} can't be read as weights"):
            read_weights(path)
    path.write_text("version https://git-lfs.github.com/spec/v1\n" * 5)
    with pytest.raises(ValueError, match=f"{path} is a Git LFS pointer.*git lfs pull"):
        read_weights(path)


BAD_ENTRIES = {
    "an integer key": ({3: torch.ones(1)}, "3 is a int as a key"),
    "sparse": ({"a": torch.eye(3).to_sparse()}, "a is no dense tensor"),
    "meta": ({"a": torch.ones(2, device="meta")}, "a is a meta tensor"),
    "integers": ({"a": torch.ones(2).int()}, "a is torch.int32, but must be a floating point"),
    "float8": ({"a": torch.ones(2).to(torch.float8_e4m3fn)}, "a is torch.float8_e4m3fn, but must"),
    "an empty float8": ({"a": torch.ones(0).to(torch.float8_e5m2)}, "a is torch.float8_e5m2"),
    "complex": ({"a": torch.ones(2).cfloat()}, "a is torch.complex64"),
    "NaN": ({"a": torch.tensor([1.0, torch.nan])}, "a has weights up to nan"),
    "infinite": ({"a": torch.tensor([1.0, -torch.inf])}, "a has weights up to inf"),
    "enormous": ({"a": torch.tensor([[1e30]])}, r"a has weights up to 1\.\d+e\+30"),
    "bfloat16": ({"a": torch.tensor([torch.inf]).bfloat16()}, "a has weights up to inf"),
}


@pytest.mark.parametrize("weights, message", BAD_ENTRIES.values(), ids=BAD_ENTRIES)
def test_what_can_be_no_weight_is_refused(tmp_path, weights, message):
    torch.save(weights, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=f"a.pth: {message}"):
        read_weights(tmp_path / "a.pth")


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


@pytest.mark.parametrize("zipped", [False, True])
def test_code_in_a_pth_file_is_not_run(tmp_path, monkeypatch, zipped):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Bomb()}, "a.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="more than plain tensors, which is never run"):
        read_weights(Path("a.pth"))
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([torch.zeros(1)], "holds a list, but must hold a state dict"),
        ({"a": 5}, "a is int, but must be a floating point tensor"),
        ({"a": torch.zeros(1, dtype=torch.int8)}, "a is torch.int8"),
        ({"state_dict": {"a": [1.0]}}, "a is list"),
    ],
)
def test_contents_of_another_kind(tmp_path, content, problem):
    with pytest.raises(ValueError, match=problem):
        read_weights(save(tmp_path / "a.pth", content))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_move_into_a_module_without_any(weights, dtype):
    with torch.device("meta"):
        module = nn.Linear(20, 50)
    stored = {key: tensor.half() for key, tensor in weights.items()}
    assign_weights(module, stored, Path("a.pth"), dtype)
    assert equal(module.state_dict(), {key: tensor.to(dtype) for key, tensor in stored.items()})


def test_integers_stay_what_they_are_and_let_go_of_the_file(tmp_path):
    module = nn.Linear(2, 3)
    module.register_buffer("marks", torch.arange(3, dtype=torch.uint8))
    path = save(tmp_path / "a.safetensors", module.state_dict())
    stored = read_weights(path, integers=True)
    assign_weights(module, stored, path, torch.float32)
    assert equal(module.state_dict(), stored)
    assert all(t.data_ptr() != stored[key].data_ptr() for key, t in module.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"bias": None}, "a.pth lacks keys (1): bias."),
        ({"bias": None, "weight": None}, "a.pth lacks keys (2): weight, bias."),
        ({"scale": torch.zeros(1)}, "a.pth has unexpected keys (1): scale."),
        ({str(i): torch.zeros(1) for i in range(9)}, "unexpected keys (9): 0, 1, 2, 3, ...."),
        ({"bias": torch.zeros(5, 1)}, "asks for (1): bias [5, 1] where [50] is expected."),
    ],
)
def test_keys_and_shapes_are_strict(weights, changes, problem):
    changed = {key: tensor for key, tensor in (weights | changes).items() if tensor is not None}
    with pytest.raises(ValueError, match=re.escape(problem)):
        assign_weights(nn.Linear(20, 50), changed, Path("a.pth"), torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_matrices_are_stored_small_and_vectors_exact(tmp_path, weights, dtype):
    path = tmp_path / "a.safetensors"
    write_weights(path, weights, dtype)
    expected = {"weight": weights["weight"].to(dtype), "bias": weights["bias"]}
    assert equal(load_file(path), expected)
    assert load_file(path)["weight"].dtype == dtype
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
    assert {file.name for file in tmp_path.iterdir()} == {"a.safetensors", "other"}


def test_views_are_stored(tmp_path, weights):
    path = tmp_path / "a.safetensors"
    write_weights(path, {"a": weights["weight"].T, "b": weights["weight"][3:5]}, torch.float32)
    assert equal(load_file(path), {"a": weights["weight"].T, "b": weights["weight"][3:5]})


@pytest.mark.parametrize("value", [1e5, torch.nan, -torch.inf])
def test_what_is_not_finite_is_not_stored(tmp_path, weights, value):
    path = tmp_path / "a.safetensors"
    weights["weight"][3, 4] = value
    with pytest.raises(ValueError, match="weight has values that are not finite as torch.float16"):
        write_weights(path, weights, torch.float16)
    assert not path.exists()


def test_a_file_that_is_converted_is_let_go(tmp_path, weights):
    weights["weight"] = weights["weight"].bfloat16()
    path = save(tmp_path / "a.safetensors", weights)
    read = read_weights(path)
    layer = nn.Linear(20, 50)
    assign_weights(layer, read, path, torch.float32)
    assert layer.bias.data_ptr() != read["bias"].data_ptr()  # else all of the file stays mapped
    torch.testing.assert_close(layer.bias.detach(), weights["bias"])


def test_a_full_disk_leaves_the_file_that_was_there(
    weights: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path, write = tmp_path / "model.safetensors", Path.write_bytes
    write_weights(path, weights)
    before = path.read_bytes()

    def full(place: Path, content: bytes) -> None:
        write(place, content[:5])
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space"):
        write_weights(path, {"weight": torch.zeros(3)})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
