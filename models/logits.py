"""What every family asks of logits before a token is drawn from them."""

from __future__ import annotations

from torch import Tensor

NOT_FINITE = "the model's logits are not finite"
LEAST_SETTING = 1e-6  # of temperature and penalty, which divide logits; less changes no draw


def check_logits(logits: Tensor) -> None:
    """Raise a FloatingPointError where logits [..., vocab] are not finite: whatever is drawn from
    them is no token."""
    if not bool(logits.sum(-1).isfinite().all()):
        raise FloatingPointError(NOT_FINITE)
