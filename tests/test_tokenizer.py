"""The tokenizer: how it cuts text, how it is loaded, and the one that is embedded."""

import json
from pathlib import Path

import pytest

from models.hub import TINY
from models.tokenizer import load_tokenizer, save_tokenizer, special_words, text_tokens
from training.dialogues import EMOTIONS, STYLES, load_dialogues
from training.language.tokenizer import train_tokenizer

# The scenes that the embedded checkpoint knows.
SCENES = ("assistant", "customer_service", "education", "entertainment", "health", "moods")
# What the model may meet: known words, other scripts, a character of four bytes, a bare line end.
TEXTS = ["睡不着真难受，睡前先放下手机吧。", "嗯,能聊聊吗?", "OK, 3 點 déjà vu", "𠮷😀", "\n", ""]


@pytest.fixture(scope="module")
def tiny():
    return load_tokenizer(TINY, vocab_size=4800)


@pytest.fixture
def folder(tmp_path) -> Path:
    lines = [text for intent in load_dialogues().intents for text in intent.users]
    save_tokenizer(tmp_path, train_tokenizer(lines, 400))
    return tmp_path


def test_emotions_and_styles_are_special_tokens(tiny):
    assert special_words(tiny, "user") == {word: 4 + i for i, word in enumerate(EMOTIONS)}
    assert special_words(tiny, "style") == {word: 11 + i for i, word in enumerate(STYLES)}
    assert special_words(tiny, "other") == {}


@pytest.mark.parametrize("piece", ["user", "assistant", "\n"])
def test_what_every_prompt_holds_is_one_token(tiny, piece):
    assert len(tiny.encode(piece)) == 1
    end, start = tiny.convert_tokens_to_ids(["<|im_end|>", "<|im_start|>"])
    assert tiny.encode(f"<|im_end|><|im_start|>{piece}") == [end, start, *tiny.encode(piece)]


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_comes_back(tiny, text):
    assert tiny.decode(tiny.encode(text)) == text


def test_text_is_composed(tiny):
    assert tiny.encode("de\u0301ja\u0300") == tiny.encode("d\u00e9j\u00e0")


def test_a_users_text_is_cut_as_usual_where_no_token_is_special(folder):
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"added_tokens": []}))
    (folder / "tokenizer_config.json").write_text("{}")
    plain = load_tokenizer(folder, 400, ())
    assert not plain.get_added_vocab()
    text = "怎么办，我睡不着怎么办"
    assert text_tokens(plain, text) == plain.encode(text)
    assert len(plain.encode(text)) < sum(len(plain.encode(character)) for character in text)


def test_special_tokens_are_silent(tiny):
    ids = tiny.encode("<|user:sad|><|style:calm|>你好<|semantic|><|im_end|>")
    assert tiny.decode(ids, skip_special_tokens=True) == "你好"


def test_held_out_text_takes_few_tokens(tiny):
    intents = [intent for intent in load_dialogues().intents if intent.scene in SCENES]
    held = [text for intent in intents for text in intent.held]
    num_tokens = sum(map(len, tiny(held)["input_ids"]))
    assert num_tokens < 0.7 * sum(map(len, held))


def test_words_are_cut_as_qwen2_does():
    tokenizer = train_tokenizer(["12 it's\n\n 好，坏  x"], 400)
    pieces = [
        piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str("12 it's\n\n 好，坏  x")
    ]
    decoded = [tokenizer.decoder.decode([piece]) for piece in pieces]
    assert decoded == ["1", "2", " it", "'s", "\n\n", " 好", "，坏", " ", " x"]


def test_loading_checks_the_vocabulary(folder):
    assert len(load_tokenizer(folder, 400)) == 400
    with pytest.raises(ValueError, match="id 399.*vocab_size 399"):
        load_tokenizer(folder, 399)


def test_loading_checks_the_special_tokens(folder):
    path = folder / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8").replace("<|semantic|>", "<|other|>"))
    with pytest.raises(ValueError, match=r"no special token <\|semantic\|>"):
        load_tokenizer(folder, 400)


@pytest.mark.parametrize("content", ["", "{", "{}", '{"model": 1}', "null"])
def test_a_damaged_tokenizer(folder, content):
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=f"the tokenizer in {folder}"):
        load_tokenizer(folder, 400)


def test_no_tokenizer(tmp_path):
    with pytest.raises(ValueError, match=r"has no tokenizer: put tokenizer\.json"):
        load_tokenizer(tmp_path, 400)


def test_code_in_the_folder_is_not_run(folder):
    ran = folder / "ran"
    (folder / "custom.py").write_text(f"open({str(ran)!r}, 'w')\nclass T: pass\n")
    config = {"tokenizer_class": "T", "auto_map": {"AutoTokenizer": ["custom.T", "custom.T"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="can't be read"):
        load_tokenizer(folder, 400)
    assert not ran.exists()
