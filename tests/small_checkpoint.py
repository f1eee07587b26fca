"""Small checkpoint folders for tests, in the published layout and in ours."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from parity import load_json, seeded_state_dict
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from models.tokenizer import load_tokenizer, save_tokenizer
from models.westlake.dual_ar import DualARConfig, DualARTransformer, SamplingConfig
from models.westlake.firefly import FireflyArchitecture
from models.westlake.saved_checkpoint import save_checkpoint

CONFIG = load_json("dual_ar_a_config.json")
CONTROL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|semantic|>"]  # from 256 on
WORD_TOKENS = ["<|user:sad|>", "<|user:happy|>", "<|style:calm|>"]  # from 260 on
HEARD_TOKENS = ["<|heard:ni|>", "<|heard:hao|>"]  # from 263 on, where they are asked for
SEMANTIC_ID = 259
SAMPLING = SamplingConfig(temperature=0.5, top_p=0.9, repetition_penalty=1.1)


def write_tokenizer(folder: Path, special_tokens: list[str]) -> None:
    """One token a byte, and after them the special ones, where Qwen2 has them too."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special_tokens)
    save_tokenizer(folder, tokenizer)


def new_model() -> DualARTransformer:
    torch.manual_seed(0)
    return DualARTransformer(DualARConfig(**CONFIG), SEMANTIC_ID).eval()


def save_small(
    folder: Path, model: DualARTransformer, codec: FireflyArchitecture, more: Sequence[str] = ()
) -> Path:
    """Our layout, float32, with a tokenizer that has emotions and styles, and more tokens."""
    write_tokenizer(folder, [*CONTROL_TOKENS, *WORD_TOKENS, *more])
    tokenizer = load_tokenizer(folder, CONFIG["vocab_size"])
    save_checkpoint(folder, model, codec, tokenizer, sampling=SAMPLING, dtype=torch.float32)
    return folder


def published_weights(*, older: bool = False) -> dict[str, Tensor]:
    """The language model under published keys; older files have wq, wk, wv in place of wqkv."""
    weights = seeded_state_dict(load_json("dual_ar_a_state_dict.json"))
    if not older:
        return weights
    fast = DualARConfig(**CONFIG).fast
    sizes = [heads * fast.head_dim for heads in (fast.n_head, *[fast.n_local_heads] * 2)]
    separate = {}
    for key, tensor in weights.items():
        names = ("wq", "wk", "wv") if ".wqkv." in key else ("wqkv",)
        parts = tensor.split(sizes) if len(names) > 1 else (tensor,)
        separate |= {key.replace("wqkv", name): part for name, part in zip(names, parts)}
    return separate


def change_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
