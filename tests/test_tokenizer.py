"""The tokenizer: how it cuts text, how it is loaded, and the one that is embedded."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from models.hub import TINY
from models.tokenizer import load_tokenizer, mark_ids, save_tokenizer, special_words, text_tokens
from training.dialogues import EMOTIONS, STYLES, load_dialogues
from training.language.tokenizer import train_tokenizer

# The scenes that the embedded checkpoint knows.
SCENES = ("assistant", "customer_service", "education", "entertainment", "health", "moods")
# What the model may meet: known words, other scripts, a character of four bytes, a bare line end.
TEXTS = ["睡不着真难受，睡前先放下手机吧。", "嗯,能聊聊吗?", "OK, 3 點 déjà vu", "𠮷😀", "\n", ""]


@pytest.fixture(scope="module")
def tiny():
    config = json.loads((TINY / "config.json").read_text(encoding="utf-8"))
    return load_tokenizer(TINY, config["vocab_size"])


@pytest.fixture(scope="module")
def trained():
    lines = [text for intent in load_dialogues().intents for text in intent.users]
    return train_tokenizer(lines, 400)


@pytest.fixture
def folder(tmp_path, trained) -> Path:
    save_tokenizer(tmp_path, trained)
    return tmp_path


def test_emotions_and_styles_are_special_tokens(tiny):
    assert special_words(tiny, "user") == {word: 4 + i for i, word in enumerate(EMOTIONS)}
    assert special_words(tiny, "style") == {word: 11 + i for i, word in enumerate(STYLES)}
    assert special_words(tiny, "other") == {}


def test_marks_are_what_a_reply_notes_of_the_turn(tiny, folder):
    added = tiny.get_added_vocab()
    topics = {id for token, id in added.items() if token.startswith("<|topic:")}
    assert len(topics) > 400 and any("." in tiny.decode([id]) for id in topics)
    words = {id for kind in ("user", "style", "heard") for id in special_words(tiny, kind).values()}
    assert mark_ids(tiny) == topics | words | {added["<|user|>"]}
    before = mark_ids(load_tokenizer(folder, 10**6))
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    others = ["<|heard|>", "<|voice:a|>", "<|user:|>", "<|tool:x|>", "<|user:a|b|>"]
    backend.add_special_tokens(["<|heard:ni|>", "<|heard:lv|>", *others])
    save_tokenizer(folder, backend)
    more = load_tokenizer(folder, 10**6)
    new = sorted(mark_ids(more) - before)
    assert [more.decode([id]) for id in new] == ["<|heard:ni|>", "<|heard:lv|>"]


@pytest.mark.parametrize("piece", ["user", "assistant", "\n"])
def test_what_every_prompt_holds_is_one_token(tiny, piece):
    assert len(tiny.encode(piece)) == 1
    end, start = (tiny.get_vocab()[token] for token in ("<|im_end|>", "<|im_start|>"))
    assert tiny.encode(f"<|im_end|><|im_start|>{piece}") == [end, start, *tiny.encode(piece)]


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_comes_back(tiny, text):
    assert tiny.decode(tiny.encode(text)) == text


def test_the_ids_are_those_of_transformers(tiny):
    theirs = PreTrainedTokenizerFast.from_pretrained(str(TINY))
    for text in [*TEXTS, "<|user:sad|>你好<|semantic|><|im_end|>"]:
        ids = theirs.encode(text)
        assert tiny.encode(text) == ids
        for skip in (False, True):
            assert tiny.decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip)
    assert (tiny.get_vocab(), tiny.get_added_vocab()) == (
        theirs.get_vocab(),
        theirs.get_added_vocab(),
    )


def test_no_text_is_cut_or_filled_up(folder):
    whole = load_tokenizer(folder, 400).encode("睡不着")
    rules = Tokenizer.from_file(str(folder / "tokenizer.json"))
    rules.enable_truncation(2)
    rules.enable_padding(length=90)
    rules.save(str(folder / "tokenizer.json"))
    assert len(rules.encode("睡不着")) == 90
    assert load_tokenizer(folder, 400).encode("睡不着") == whole


def test_tokens_that_the_config_adds_are_known(folder):
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["added_tokens_decoder"] = {"400": {"content": "<|more|>", "special": True}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert load_tokenizer(folder, 401).encode("<|more|>") == [400]


@pytest.mark.parametrize(
    "named",
    [
        {"pad_token": "<|more|>"},
        {
            "additional_special_tokens": [
                "<|im_end|>",
                {"__type": "AddedToken", "content": "<|more|>"},
            ]
        },
        {"extra_special_tokens": {"image_token": "<|more|>"}},
    ],
)
def test_tokens_that_the_config_only_names_are_known(folder, named):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | named))
    assert load_tokenizer(folder, 401).encode("<|more|>") == [400]


def test_tokens_of_a_file_beside_are_known(folder):
    (folder / "added_tokens.json").write_text('{"<|more|>": 400}')
    (folder / "special_tokens_map.json").write_text('{"pad_token": "<|more|>"}')
    assert load_tokenizer(folder, 401).encode("<|more|>") == [400]


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
    num_tokens = sum(map(len, map(tiny.encode, held)))
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
