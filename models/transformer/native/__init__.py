"""The C file: products with weights of few bits, a stack's decode step, a codec's decoder."""

from .compiled import (
    ISA_SWITCH,
    EmbeddingStruct,
    HeadStruct,
    LinearStruct,
    compile_library,
    isa_of,
    load_library,
    native_correct,
    native_quantise,
    pointer_of,
    scratch_of,
)
from .linear import NativeLinear
from .memory import HugePages
from .panels import PANEL
from .stack import MAX_HEAD, NativeStack, native_form
from .threads import (
    at_work,
    num_threads,
    share_of_threads,
    without_torch_threads,
    work_beside,
)

__all__ = [
    "ISA_SWITCH",
    "MAX_HEAD",
    "PANEL",
    "EmbeddingStruct",
    "HeadStruct",
    "HugePages",
    "LinearStruct",
    "NativeLinear",
    "NativeStack",
    "at_work",
    "compile_library",
    "isa_of",
    "load_library",
    "native_correct",
    "native_form",
    "native_quantise",
    "num_threads",
    "pointer_of",
    "scratch_of",
    "share_of_threads",
    "without_torch_threads",
    "work_beside",
]
