"""A small model whose replies are made in forked processes, as on ZeroGPU."""

from __future__ import annotations

import pytest
from fake_spaces import FakeSpaces
from small import small_model

from models.westlake.firefly import FireflyArchitecture
from models.westlake.speech_model import WestlakeModel
from models.zero_gpu import ZeroGpuModel


@pytest.fixture(scope="module")
def model(small_codec: FireflyArchitecture) -> WestlakeModel:
    return small_model(small_codec)


@pytest.fixture
def spaces() -> FakeSpaces:
    return FakeSpaces()


@pytest.fixture
def lent(model: WestlakeModel, spaces: FakeSpaces) -> ZeroGpuModel:
    return ZeroGpuModel(model, spaces.GPU)
