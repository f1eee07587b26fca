"""Engines: how the language model's frames are made. One is chosen when a checkpoint is loaded."""

from .choice import choose_engine
from .eager import EagerEngine
from .native import NativeDraw

__all__ = ["EagerEngine", "NativeDraw", "choose_engine"]
