"""A small Qwen2.5-Omni: as ours, and as transformers' own for comparison."""

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from omni_reference import repair
from omni_small import small_model, write_folder

from models.omni.config import quiet
from models.omni.speech_model import OmniModel, load_omni


@pytest.fixture(scope="session")
def published():
    """The model as transformers has it; read only."""
    return repair(small_model())


@pytest.fixture(scope="session")
def folder(published, tmp_path_factory) -> Path:
    with quiet():
        path = write_folder(tmp_path_factory.mktemp("omni"), published)
        published.load_speakers(path / "spk_dict.pt")
    return path


@pytest.fixture
def copy(folder, tmp_path):
    """A folder to damage; its weights are linked, so write them anew."""
    target = tmp_path / "copy"
    shutil.copytree(folder, target, copy_function=os.link)
    return target


@pytest.fixture(scope="session")
def omni(folder) -> OmniModel:
    return load_omni(folder, "cpu", "auto", None)


@pytest.fixture
def few_to_collect() -> Iterator[None]:
    """What there was before a test is not looked through whenever the test collects garbage."""
    gc.freeze()
    yield
    gc.unfreeze()
