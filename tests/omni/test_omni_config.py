"""Sizes that can't be, or don't fit together, are refused before anything is made of them."""

import pytest
from omni_damage import change_config, change_weights, refused
from omni_small import NUM_CODES

from models.omni.speech_model import load_omni


def part_of(config: dict, path: str) -> dict:
    for name in path.split("."):
        config = config[f"{name}_config"]
    return config


@pytest.mark.parametrize(
    "part, name, value, fault",
    [
        ("thinker.text", "num_hidden_layers", 10**6, "must be at most 1024"),
        ("thinker.text", "hidden_size", 1 << 40, "must be at most 16777216"),
        ("thinker.text", "max_position_embeddings", 0, "max_position_embeddings is 0"),
        ("thinker.text", "num_key_value_heads", 3, "must be a multiple of num_key_value_heads, 3"),
        ("thinker.text", "rms_norm_eps", float("inf"), "rms_norm_eps is inf"),
        ("thinker.audio", "max_source_positions", 1 << 20, "must be at most 16384"),
        ("thinker.audio", "n_window", 0, "n_window is 0, but must be a number of at least 1"),
        ("thinker.audio", "output_dim", 32, "output_dim is 32, but must be as hidden_size, 64"),
        ("thinker.vision", "num_heads", 5, "hidden_size is 32, but must be a multiple of num_he"),
        ("thinker.vision", "window_size", 100, "must be a multiple of the side of a token, 28"),
        ("thinker.vision", "patch_size", [14, 14], "patch_size is [14, 14]"),
        ("thinker", "seconds_per_chunk", 0, "seconds_per_chunk is 0"),
        ("talker", "head_dim", 32, "adds up to 8, but must to half of a head's 32"),
        ("talker", "embedding_size", 32, "embedding_size is 32, but must be as hidden_size, 64"),
        ("talker", "tts_codec_mask_token_id", NUM_CODES + 8, "has ids from 0 to 71"),
        ("talker", "tts_text_pad_token_id", -1, "tts_text_pad_token_id is -1"),
        ("token2wav.dit", "block_size", 25, "block_size is 25, but must be a multiple of repe"),
        ("token2wav.dit", "repeats", 0, "repeats is 0"),
        ("token2wav.dit", "mel_dim", 40, "mel_dim of the vocoder is 80"),
        ("token2wav.dit", "look_ahead_layers", [1] * 2000, "is a list of 2000, allowed are 1024"),
        ("token2wav.bigvgan", "upsample_rates", [5, 3, 2, 2, 2, 0], "upsample_rates is 0"),
    ],
)
def test_sizes_are_refused_by_name(copy, part, name, value, fault):
    change_config(copy, lambda config: part_of(config, part).update({name: value}))
    message = refused(copy)
    assert fault in message and "config.json" in message


def test_a_context_without_room_for_a_turn_is_told(copy):
    change_config(
        copy, lambda config: part_of(config, "thinker.text").update(max_position_embeddings=64)
    )
    assert "max_position_embeddings 64 has no room" in refused(copy)


def test_sizes_that_4_bits_do_not_fit_are_told_at_load(folder):
    assert "layers of sizes that 64 does not divide: use 'int8'" in refused(folder, "int4")


@pytest.mark.parametrize(
    "key", ["thinker.lm_head.weight", "token2wav.code2wav_dit_model.proj_out.bias"]
)
def test_weights_that_are_not_finite_are_named_when_their_part_is_loaded(copy, key):
    change_weights(copy, lambda weights: weights[key].view(-1)[3:4].fill_(float("nan")))
    model = load_omni(copy, "cpu", "auto", None)
    with pytest.raises(ValueError, match="has weights up to nan") as caught:
        model.warm_up()
    assert f"model.safetensors: {key}" in str(caught.value)
