"""How a reply is drawn: the text, the codes, and the sound that is made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ..errors import UserError, shown
from ..logits import LEAST_SETTING, check_logits

SOLVERS = ("runge-kutta", "euler")


def _check(settings: object, limits: dict[str, tuple[bool, str]]) -> None:
    for name, (fits, allowed) in limits.items():
        if not fits:
            value = shown(getattr(settings, name))
            raise UserError("error_out_of_range", name=name, value=value, limits=allowed)


def _within(low: float, value: object, high: float) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return low <= value <= high


def _is_count(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """How codes become mel by solving a flow; the defaults are the published ones.

    Args:
        solver: "runge-kutta", four evaluations a step (3/8 rule); "euler", one, which is coarser.
        num_steps: points in time, so one step less; 2 to 100.
        guidance: 0 to 10; how much the codes count beyond what they would by themselves.
        blocks_ahead: blocks of codes that a piece of sound waits for, 1 to 400. The pieces
            equal the whole exactly when there are as many as evaluations.
        context: mel frames around a piece that the vocoder sees, 0 to 100; 29 are all that count.

    Raises:
        UserError: a value of another type, or outside of its range.
    """

    solver: str = "runge-kutta"
    num_steps: int = 10
    guidance: float = 0.5
    blocks_ahead: int = 1
    context: int = 29

    def __post_init__(self) -> None:
        limits = {
            "solver": (self.solver in SOLVERS, " or ".join(SOLVERS)),
            "num_steps": (_is_count(self.num_steps, 2, 100), "2 to 100, a whole number"),
            "guidance": (_within(0, self.guidance, 10), "0 to 10"),
            "blocks_ahead": (_is_count(self.blocks_ahead, 1, 400), "1 to 400, a whole number"),
            "context": (_is_count(self.context, 0, 100), "0 to 100, a whole number"),
        }
        _check(self, limits)


@dataclass(frozen=True, kw_only=True)
class OmniSampling:
    """How a reply is drawn; the defaults are the published ones.

    Args:
        temperature, top_k, top_p, repetition_penalty: of the codes, that is how it is spoken.
            0 < temperature <= 2, 1 to 8,192 for top_k, 0 < top_p <= 1, 0 < penalty <= 2; the
            penalty counts for all codes of the reply.
        text_temperature: of the text, 0 to 2; 0 takes the likeliest token.
        text_top_p: of the text, 0 < text_top_p <= 1.
        speaks: False answers in text alone, and doesn't use the parts that speak.
        flow: how codes become sound.
        euler_evaluations: 0 to 99; 0 solves the flow as `flow` says, more by so many evaluations of
            Euler's method: fewer are faster and coarser.
        seed: the same seed gives the same reply; None draws a fresh one.

    Raises:
        UserError: a value of another type, or outside of its range.
    """

    temperature: float = 0.9
    top_k: int = 40
    top_p: float = 0.8
    repetition_penalty: float = 1.05
    text_temperature: float = 0.0
    text_top_p: float = 1.0
    speaks: bool = True
    flow: FlowConfig = field(default_factory=FlowConfig)
    euler_evaluations: int = 0
    seed: int | None = None

    def __post_init__(self) -> None:
        limits = {
            "temperature": (self._is_positive("temperature", 2), "0 < temperature <= 2"),
            "top_k": (_is_count(self.top_k, 1, 8192), "1 to 8192, a whole number"),
            "top_p": (self._is_positive("top_p", 1), "0 < top_p <= 1"),
            "repetition_penalty": (
                self._is_positive("repetition_penalty", 2),
                "0 < repetition_penalty <= 2",
            ),
            "text_temperature": (_within(0, self.text_temperature, 2), "0 to 2"),
            "text_top_p": (self._is_positive("text_top_p", 1), "0 < text_top_p <= 1"),
            "speaks": (isinstance(self.speaks, bool), "True or False"),
            "flow": (isinstance(self.flow, FlowConfig), "a FlowConfig"),
            "euler_evaluations": (
                _is_count(self.euler_evaluations, 0, 99),
                "0 to 99, a whole number",
            ),
            "seed": (
                self.seed is None or _is_count(self.seed, 0, 2**63 - 1),
                "a whole number, 0 <= seed < 2^63",
            ),
        }
        _check(self, limits)

    @property
    def solved_flow(self) -> FlowConfig:
        """How codes become sound, with what `euler_evaluations` changes."""
        if not self.euler_evaluations:
            return self.flow
        return replace(self.flow, solver="euler", num_steps=self.euler_evaluations + 1)

    def _is_positive(self, name: str, high: float) -> bool:
        value = getattr(self, name)
        return _within(0, value, high) and value > 0


class Draw:
    """Tokens from logits, by the published steps in their order.

    Draws are made on the CPU with a generator of their own, so that a seed means the same
    everywhere, and nobody else's draws disturb them.

    Args:
        temperature: 0 takes the likeliest.
        top_k, top_p: only the likeliest are drawn; 0 and 1 leave all.
        penalty: of what was drawn before, and of `history`.
        history: tokens that count as drawn.
        suppressed: tokens that are never drawn.
        seed: of the draws.
    """

    def __init__(
        self,
        *,
        temperature: float,
        top_k: int = 0,
        top_p: float = 1.0,
        penalty: float = 1.0,
        history: Sequence[int] = (),
        suppressed: Sequence[int] = (),
        seed: int = 0,
    ) -> None:
        self.is_greedy = temperature == 0
        self.penalty = max(LEAST_SETTING, penalty)
        self._seen = set(history)
        self._suppressed = torch.tensor(list(suppressed), dtype=torch.long)
        self._generator = torch.Generator().manual_seed(seed)
        self._warpers: Any = LogitsProcessorList()
        if not self.is_greedy and temperature != 1:
            self._warpers.append(TemperatureLogitsWarper(max(LEAST_SETTING, float(temperature))))
        if top_k:
            self._warpers.append(TopKLogitsWarper(top_k))
        if top_p < 1:
            self._warpers.append(TopPLogitsWarper(top_p))

    def __call__(self, logits: Tensor) -> int:
        """Draw a token from logits [1, vocabulary].

        Raises:
            FloatingPointError: they are not finite.
        """
        check_logits(logits)
        scores = logits.float().cpu().clone()
        if self.penalty != 1 and self._seen:
            seen = torch.tensor(sorted(self._seen))
            values = scores[0, seen]
            penalised = torch.where(values < 0, values * self.penalty, values / self.penalty)
            scores[0, seen] = penalised
        scores[0, self._suppressed] = -math.inf
        if self.is_greedy:
            token = int(scores.argmax())
        else:
            probabilities = self._warpers(None, scores).softmax(-1)
            token = int(torch.multinomial(probabilities, 1, generator=self._generator))
        self._seen.add(token)
        return token
