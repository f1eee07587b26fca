"""Transformer blocks, their cache, and their weights in few bits: the families' language models."""

from .blocks import Block, FeedForward, RMSNorm, Stack
from .cache import KVCache
from .config import StackConfig
from .language_model import LanguageModel

__all__ = [
    "Block",
    "FeedForward",
    "KVCache",
    "LanguageModel",
    "RMSNorm",
    "Stack",
    "StackConfig",
]
