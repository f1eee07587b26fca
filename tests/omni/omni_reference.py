"""transformers' own generate() as the reference, with what its release breaks put right.

It drops a mask of ones, without which the talker adds neither the codec's begin nor its pad
embedding and finds no positions; and pictures' pixels reach the talker, which refuses them.
"""

import functools
from dataclasses import dataclass

import torch


@dataclass
class Reference:
    ids: list[int]
    codes: list[int]
    wave: torch.Tensor


def repair(model):
    """Give the talker's mask of ones back."""
    forward = model.talker.forward

    @functools.wraps(forward)  # generate() reads the signature
    def masked(*args, attention_mask=None, past_key_values=None, **kwargs):
        if attention_mask is None:
            embeds = kwargs.get("inputs_embeds")
            new = (kwargs["input_ids"] if embeds is None else embeds).shape[1]
            length = past_key_values.get_seq_length() + new
            attention_mask = torch.ones(1, length, dtype=torch.long)
        return forward(
            *args, attention_mask=attention_mask, past_key_values=past_key_values, **kwargs
        )

    model.talker.forward = masked
    return model


def reference(model, inputs, seed, max_new_tokens=48, max_codes=None, **options) -> Reference:
    """What generate() says, with one seed for the codes and for the flow's noise."""
    seen = []
    forward = type(model.token2wav).forward

    def token2wav(code, *args, **kwargs):
        torch.manual_seed(seed)
        seen.append(code[0].tolist())
        return forward(model.token2wav, code, *args, **kwargs)

    model.token2wav.forward = token2wav
    talker = model.config.talker_config
    given = {f"thinker_{k}" if k.startswith("pixel") else k: v for k, v in inputs.items()}
    torch.manual_seed(seed)
    ids, wave = model.generate(
        **given,
        attention_mask=torch.ones_like(inputs["input_ids"]),
        talker_eos_token_id=[talker.tts_codec_pad_token_id, talker.tts_codec_end_token_id],
        thinker_max_new_tokens=max_new_tokens,
        talker_max_new_tokens=max_codes or max_new_tokens,
        **options,
    )
    length = inputs["input_ids"].shape[1]
    return Reference(ids[0, length:].tolist(), seen[-1], wave)
