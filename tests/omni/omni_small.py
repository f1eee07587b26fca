"""A small random Qwen2.5-Omni in the published folder layout."""

import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration

from models.omni.config import quiet

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>",
    "<|vision_bos|>", "<|vision_eos|>", "<|vision_pad|>", "<|IMAGE|>", "<|VIDEO|>",
    "<tts_pad>", "<tts_text_bos>", "<tts_text_eos>", "<tts_text_bos_single>",
)  # fmt: skip
ID = {token: 256 + i for i, token in enumerate(SPECIAL)}  # behind the bytes
VOCAB_SIZE = 288
NUM_CODES = 64
PAD, BEGIN, END, MASK = (NUM_CODES + offset for offset in (1, 2, 3, 5))
VOICES = {"Chelsie": "<tts_text_bos>", "Ethan": "<tts_text_bos_single>"}
PREPROCESSOR = {
    "feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 128,
    "sampling_rate": 16000, "n_fft": 400, "hop_length": 160, "chunk_length": 300,
    "image_processor_type": "Qwen2VLImageProcessor", "patch_size": 14, "merge_size": 2,
    "temporal_patch_size": 2, "min_pixels": 3136, "max_pixels": 12845056,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}  # fmt: skip


def small_config(dit_layers: int = 4, inner: int = 96, width: int = 48) -> Qwen2_5OmniConfig:
    """A config whose rotary tables, blocks and windows work as the published ones."""
    mrope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
    ids = {
        "audio_token_index": ID["<|AUDIO|>"], "image_token_index": ID["<|IMAGE|>"],
        "video_token_index": ID["<|VIDEO|>"], "audio_start_token_id": ID["<|audio_bos|>"],
        "audio_end_token_id": ID["<|audio_eos|>"], "vision_start_token_id": ID["<|vision_bos|>"],
        "vision_end_token_id": ID["<|vision_eos|>"],
    }  # fmt: skip
    attention = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    return Qwen2_5OmniConfig(
        thinker_config={
            **ids,
            "user_token_id": ord("u"), "bos_token_id": ID["<|im_start|>"],
            "eos_token_id": ID["<|im_end|>"], "pad_token_id": ID["<|endoftext|>"],
            "text_config": {
                **attention, "vocab_size": VOCAB_SIZE, "hidden_size": 64,
                "intermediate_size": inner, "rope_parameters": mrope, "tie_word_embeddings": False,
            },
            "audio_config": {
                "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2,
                "encoder_ffn_dim": 64, "output_dim": 64, "n_window": 100,
            },
            "vision_config": {
                "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2,
                "out_hidden_size": 64, "fullatt_block_indexes": [1],
            },
        },
        talker_config={
            **ids, **attention, "vocab_size": NUM_CODES + 8, "embedding_size": 64,
            "hidden_size": width, "intermediate_size": 64, "head_dim": 16, "rope_parameters": mrope,
            "tts_text_start_token_id": ID["<tts_text_bos>"],
            "tts_text_end_token_id": ID["<tts_text_eos>"],
            "tts_text_pad_token_id": ID["<tts_pad>"], "tts_codec_start_token_id": BEGIN,
            "tts_codec_end_token_id": END, "tts_codec_pad_token_id": PAD,
            "tts_codec_mask_token_id": MASK,
        },
        token2wav_config={
            "dit_config": {
                "hidden_size": 32, "num_hidden_layers": dit_layers, "num_attention_heads": 2,
                "head_dim": 16, "emb_dim": 16, "num_embeds": NUM_CODES + 8, "block_size": 24,
                "look_ahead_layers": [dit_layers // 2], "look_backward_layers": [0, dit_layers - 1],
                "enc_emb_dim": 8, "enc_dim": 8, "enc_channels": [16, 16, 16, 16, 48],
                "enc_attention_channels": 8, "enc_se_channels": 8,
            },
            "bigvgan_config": {"upsample_initial_channel": 128},
        },
    )  # fmt: skip


def small_model(seed: int = 2, **sizes: int) -> Qwen2_5OmniForConditionalGeneration:
    """Random weights far from zero: what is said depends on what came."""
    torch.manual_seed(seed)
    with quiet():
        model = Qwen2_5OmniForConditionalGeneration(small_config(**sizes)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            scale = {"lm_head.weight": 3.0, "codec_head.weight": 1.5}.get(name.split(".", 1)[1], 1)
            if weight.dim() == 2:
                size = 1 if "embed_tokens" in name else weight.shape[1]
                weight.normal_(std=scale / size**0.5)
            elif weight.dim() > 2:
                weight.normal_(std=0.7 / weight[0].numel() ** 0.5)
        model.thinker.lm_head.weight[ID["<|im_end|>"]] *= 1.6
        for token in VOICES.values():  # else a voice is one quiet word among many
            model.thinker.model.embed_tokens.weight[ID[token]] *= 8
    return model


def write_folder(folder: Path, model: Qwen2_5OmniForConditionalGeneration, seed: int = 1) -> Path:
    """Write a model, its tokenizer and two voices as they are published."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    model.save_pretrained(folder)
    (folder / "generation_config.json").write_text('{"_from_model_config": true}')
    generator = torch.Generator().manual_seed(seed)
    voices = {
        name: {
            "bos_token": ID[token],
            "cond": torch.randn(1, 8, generator=generator),
            "ref_mel": torch.randn(1, 40, 80, generator=generator),
        }
        for name, token in VOICES.items()
    }
    torch.save(voices, folder / "spk_dict.pt")
    return folder


def _write_tokenizer(folder: Path) -> None:
    """Every byte is a token, the special ones stand behind them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
