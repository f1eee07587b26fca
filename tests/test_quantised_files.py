"""Language models of 8 and 4 bits as checkpoints: loaded and saved."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_checkpoint import save_small
from small_quantised import LARGEST_ERRORS, plain_model, speech_grid

from models.devices import DTYPES
from models.errors import UserError
from models.transformer.native import load_library
from models.westlake.checkpoint import load_checkpoint
from models.westlake.dual_ar import DualARTransformer
from models.westlake.firefly import FireflyArchitecture
from models.westlake.saved_checkpoint import save_checkpoint, save_quantised


@pytest.fixture(scope="module")
def model() -> DualARTransformer:
    return plain_model()


@pytest.fixture(scope="module")
def grid() -> torch.Tensor:
    return speech_grid()


@pytest.mark.parametrize("dtype", LARGEST_ERRORS)
def test_a_saved_one_speaks_as_the_one_quantised_when_loaded(
    tmp_path, model, small_codec: FireflyArchitecture, grid, dtype, monkeypatch
):
    (source := tmp_path / "source").mkdir()
    save_small(source, model, small_codec)
    save_quantised(source, tmp_path / "small", dtype)
    loaded, saved = load_checkpoint(source, dtype=dtype), load_checkpoint(tmp_path / "small")
    assert loaded.dtype == saved.dtype == dtype
    assert torch.equal(loaded.model(grid)[0], saved.model(grid)[0])
    small, large = (path / "model.safetensors" for path in (tmp_path / "small", source))
    assert small.stat().st_size < 0.6 * large.stat().st_size
    size = sum(weight.numel() for weight in model.parameters())
    for threshold, large in ((size, True), (size + 1, False)):
        monkeypatch.setattr("models.westlake.checkpoint.LARGE_MODEL", threshold)
        assert load_checkpoint(source, dtype=dtype).is_large == large
    for native, threshold, chosen in (
        (True, 10**9, "int8"),
        (True, 1000, "int4"),
        (False, 10**9, "float32"),
        (False, 1000, "int8"),
    ):
        library = load_library() if native else None
        if native and library is None:
            continue
        monkeypatch.setattr("models.westlake.checkpoint.load_library", lambda found=library: found)
        monkeypatch.setattr("models.westlake.fastest.LARGE_MODEL", threshold)
        monkeypatch.setattr("models.westlake.fastest.read_speed", lambda *_: 1.0)
        assert load_checkpoint(source).dtype == chosen
    with pytest.raises(ValueError, match=f"is quantised to {dtype}, which the CPU"):
        load_checkpoint(tmp_path / "small", dtype="float32")
    with pytest.raises(ValueError, match=f"is quantised to {dtype} already"):
        save_quantised(tmp_path / "small", tmp_path / "again", dtype)
    with pytest.raises(ValueError, match="allowed are 'int8' and 'int4'"):
        save_quantised(source, tmp_path / "again", "float32")
    with pytest.raises(UserError, match="give another folder"):
        save_quantised(source, source / ".." / "source", dtype)
    weights = load_file(tmp_path / "small" / "model.safetensors")
    save_file(weights, tmp_path / "small" / "model.safetensors", {"dtype": "int2"})
    with pytest.raises(ValueError, match="says dtype int2, known are int8, int4"):
        load_checkpoint(tmp_path / "small")
    save_file(weights, tmp_path / "small" / "model.safetensors")  # as no format declares it
    with pytest.raises(ValueError, match="is torch.u?int8, but must be a floating point tensor"):
        load_checkpoint(tmp_path / "small")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("native", [True, False])
def test_what_was_loaded_is_saved_for_the_same_replies(
    tmp_path, model, small_codec, grid, dtype, native, monkeypatch
):
    if not native:
        monkeypatch.setattr("models.westlake.checkpoint.load_library", lambda: None)
    (source := tmp_path / "source").mkdir()
    save_small(source, model, small_codec)
    first = load_checkpoint(source, dtype=dtype)
    save_checkpoint(
        tmp_path / "saved", first.model, first.codec, first.tokenizer, sampling=first.sampling
    )
    second = load_checkpoint(tmp_path / "saved", dtype=dtype)
    assert first.dtype == second.dtype == dtype
    assert first.num_parameters == second.num_parameters
    assert first.model.num_parameters == sum(x.numel() for x in model.parameters())
    assert torch.equal(first.model(grid)[0], second.model(grid)[0])
    codes = grid[:1, 1:] - 1
    waves = [c.codec.decode(codes, torch.tensor([30]))[0] for c in (first, second)]
    assert torch.equal(*waves)
    if dtype in LARGEST_ERRORS:
        assert load_checkpoint(tmp_path / "saved").dtype == dtype, "as it is stored"
        with pytest.raises(ValueError, match=f"of {dtype} is saved as it is"):
            save_checkpoint(
                tmp_path / "x", first.model, first.codec, first.tokenizer, dtype=torch.float16
            )
