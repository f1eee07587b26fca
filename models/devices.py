"""Where a model computes, and in which dtype."""

from __future__ import annotations

import torch

from .errors import UserError, shown

FLOATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
QUANTISED = ("int8", "int4")
DTYPES = (*FLOATS, *QUANTISED)


def find_device(name: str) -> torch.device:
    """The device of a name.

    Args:
        name: "cpu", "cuda" or "auto", which is CUDA where there is one.

    Raises:
        UserError: another name, or there is no GPU.
    """
    if name not in ("cpu", "cuda", "auto"):
        raise UserError("error_unknown_device", name=shown(name))
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("error_no_gpu")
    device = torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        _settle_cuda()
    return device


def _settle_cuda() -> None:
    """Set what PyTorch decides for the process: how a GPU attends and convolves."""
    # cuDNN plans each length of its attention anew, and with every frame there is one more.
    torch.backends.cuda.enable_cudnn_sdp(False)
    # Rounded to 10 bits, float32 convolutions would make other codes of the same sound.
    torch.backends.cudnn.allow_tf32 = False


def check_dtype(name: str, device: torch.device) -> None:
    """Raise a UserError if there is no such dtype, or not on that device."""
    if name not in ("auto", *DTYPES):
        allowed = ", ".join(map(repr, ("auto", *DTYPES)))
        raise UserError("error_unknown_dtype", name=shown(name), allowed=allowed)
    if name in QUANTISED and device.type != "cpu":
        raise UserError("error_dtype_for_cpu", name=name)


def multiplies_bfloat16(device: torch.device) -> bool:
    """The device is faster with bfloat16 than with float32."""
    return device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
