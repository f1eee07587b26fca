"""Where models compute, and what that settles for the process."""

import pytest
import torch

from models.devices import find_device


@pytest.fixture
def settings(monkeypatch):
    """What PyTorch is told of GPUs, as it was afterwards."""
    told: dict[str, bool] = {}
    monkeypatch.setattr(
        torch.backends.cuda, "enable_cudnn_sdp", lambda enabled: told.update(plans=enabled)
    )
    before = torch.backends.cudnn.allow_tf32
    yield told
    torch.backends.cudnn.allow_tf32 = before


def test_a_gpu_attends_without_plans_and_convolves_in_float32(settings, monkeypatch):
    torch.backends.cudnn.allow_tf32 = True
    assert find_device("cpu").type == "cpu"
    assert not settings and torch.backends.cudnn.allow_tf32
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find_device("auto").type == "cuda"
    assert settings == {"plans": False} and not torch.backends.cudnn.allow_tf32
