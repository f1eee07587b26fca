"""The full-size codec computes the published implementation's numbers."""

import pytest
import torch
import torchaudio.functional as AF
from parity import ASSETS, load_json
from safetensors.torch import load_file
from torch import Tensor

from models.westlake.firefly import FireflyArchitecture

pytestmark = pytest.mark.usefixtures("no_grad")

ATOL = 1e-4
MIN_EQUAL_CODES = 0.999  # a value on a rounding border may flip


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(ASSETS / "firefly.safetensors")


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=ATOL, rtol=0)


def assert_codes_equal(actual: Tensor, expected: Tensor) -> None:
    assert actual.dtype == torch.long
    assert actual.shape == expected.shape
    equal = (actual == expected).double().mean().item()
    assert equal >= MIN_EQUAL_CODES, f"only {equal:.2%} of the codes are equal"


def test_state_dict_has_exactly_the_published_keys_and_shapes(full_codec: FireflyArchitecture):
    published = {key: tuple(shape) for key, shape in load_json("firefly_state_dict.json").items()}
    ours = {key: tuple(tensor.shape) for key, tensor in full_codec.state_dict().items()}
    assert published.keys() - ours.keys() == set()
    assert ours.keys() - published.keys() == set()
    assert ours == published


@pytest.mark.parametrize(
    ("part", "millions"), [("backbone", 19.45), ("head", 17.09), ("quantizer", 10.53)]
)
def test_part_sizes(full_codec: FireflyArchitecture, part: str, millions: float):
    num_parameters = sum(p.numel() for p in full_codec.get_submodule(part).parameters())
    assert round(num_parameters / 1e6, 2) == millions


def test_mel_and_linear(full_codec: FireflyArchitecture, golden: dict[str, Tensor]):
    mel, linear = full_codec.spec_transform(golden["wav"], return_linear=True)
    assert_close(mel, golden["mel"])
    assert_close(linear[..., ::8], golden["linear"])
    assert torch.equal(full_codec.spec_transform(golden["wav"]), mel)


def test_backbone(full_codec: FireflyArchitecture, golden: dict[str, Tensor]):
    assert_close(full_codec.backbone(golden["mel"]), golden["backbone"])


def test_encode_a_batch_of_two_lengths(full_codec: FireflyArchitecture, golden: dict[str, Tensor]):
    codes, feature_lengths = full_codec.encode(golden["wav"], golden["lengths"])
    assert_codes_equal(codes, golden["codes"])
    assert feature_lengths.tolist() == golden["feature_lengths"].tolist()


def test_encode_a_signal_alone(full_codec: FireflyArchitecture, golden: dict[str, Tensor]):
    codes, _ = full_codec.encode(golden["wav"][:1], golden["lengths"][:1])
    assert_codes_equal(codes, golden["codes_single"])


def test_decode(full_codec: FireflyArchitecture, golden: dict[str, Tensor]):
    audio, audio_lengths = full_codec.decode(golden["decode_codes"], golden["decode_lengths"])
    assert_close(audio, golden["audio"])
    assert audio_lengths.tolist() == golden["audio_lengths"].tolist()


def test_a_question_of_3_625_seconds_at_16_khz_has_78_frames(full_codec: FireflyArchitecture):
    wave = 0.1 * torch.randn(1, 1, 58000, generator=torch.Generator().manual_seed(0))
    resampled = AF.resample(wave, 16000, full_codec.config.sample_rate)
    codes, feature_lengths = full_codec.encode(resampled, torch.tensor([resampled.shape[-1]]))
    assert codes.shape == (1, 8, 78)
    assert feature_lengths.tolist() == [78]
    assert_close(
        full_codec.spec_transform(wave, sample_rate=16000), full_codec.spec_transform(resampled)
    )
