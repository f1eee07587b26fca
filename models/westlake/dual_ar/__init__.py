"""The language model over frames: text and speech in, text and speech out."""

from ...transformer import KVCache
from .config import DualARConfig
from .engines import EagerEngine, choose_engine
from .generation import MAX_MARKS, Reply, mark_room, next_frames
from .model import DualARTransformer
from .prompt import PromptTokens, TurnStream, turn_grid
from .sampling import SamplingConfig
from .stepping import Stepper, make_frames

__all__ = [
    "MAX_MARKS",
    "DualARConfig",
    "DualARTransformer",
    "EagerEngine",
    "KVCache",
    "PromptTokens",
    "Reply",
    "SamplingConfig",
    "Stepper",
    "TurnStream",
    "choose_engine",
    "make_frames",
    "mark_room",
    "next_frames",
    "turn_grid",
]
