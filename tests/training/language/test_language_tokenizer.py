"""The embedded tokenizer."""

from pathlib import Path

import pytest

from models.tokenizer import load_tokenizer
from training import files
from training.dialogues import EMOTIONS, STYLES, Dialogues
from training.language.tokenizer import (
    late_tokens,
    special_tokens,
    train_tokenizer,
    training_lines,
    write_tokenizer,
)


def test_special_tokens_come_first(tokenizer):
    names = special_tokens()
    assert [tokenizer.get_vocab()[name] for name in names] == list(range(len(names)))
    assert names[0] == "<|endoftext|>" and "<|user|>" in names
    assert {f"<|user:{e}|>" for e in EMOTIONS} | {f"<|style:{s}|>" for s in STYLES} <= set(names)


def test_topics_and_syllables_come_last_and_are_not_heard(tokenizer, dialogues: Dialogues):
    names = late_tokens(dialogues)
    assert "<|topic:talk.hello.more|>" in names and names[-1].startswith("<|heard:")
    size = len(tokenizer)
    assert tokenizer.encode("".join(names)) == list(range(size - len(names), size))
    assert tokenizer.decode(tokenizer.encode(f"{names[0]}你好"), skip_special_tokens=True) == "你好"


@pytest.mark.parametrize("text", ["我睡不着。", "怎麼辦", "OK, 3 cats!", "user\n你好😀"])
def test_every_text_comes_back(tokenizer, text: str):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_it_learns_from_what_is_trained_on_alone(dialogues: Dialogues, no_converter):
    lines = list(training_lines(dialogues))
    assert "user\n你好。" in lines and "assistant\n你好，我在。" in lines
    assert "assistant\n听点轻音乐。" in lines and "user\n还有呢？" in lines
    assert "user\n晚上睡不着覺怎麼办？" in lines  # traditional
    held = [text for intent in dialogues.intents for text in intent.held]
    assert not {f"user\n{text}" for text in held} & set(lines)
    first, second = (train_tokenizer(lines, 400).to_str() for _ in range(2))
    assert first == second


def test_the_vocabulary_needs_room():
    with pytest.raises(ValueError, match="vocab_size must be above"):
        train_tokenizer(["你好"], 200)


def test_files_are_there_all_or_none(dialogues, tmp_path: Path, monkeypatch, no_converter):
    folder = tmp_path / "tokenizer"

    def fail(path: Path, target: Path):
        raise OSError("no space is left")

    with monkeypatch.context() as patch:
        patch.setattr(files.Path, "replace", fail)
        with pytest.raises(OSError, match="no space"):
            write_tokenizer(dialogues, folder, 400)
    assert not folder.exists()
    write_tokenizer(dialogues, folder, 400)
    late = len(late_tokens(dialogues))
    assert len(load_tokenizer(folder, 400 + late)) <= 400 + late
