"""The ways in which a line may be said and written."""

import numpy as np

from training.language import wording
from training.language.wording import as_said, loosen, pieces, reword, traditional


def drawn(text: str) -> set[str]:
    return {reword(text, np.random.default_rng(seed)) for seed in range(200)}


def test_a_line_is_reworded_in_all_ways(no_converter):
    found = drawn("我睡了三个月，怎么办？")
    assert {"我睡了三个月，怎么办？", "我睡了3个月，怎么办？", "我睡了三个月，怎么办"} <= found
    assert "我睡了三個月，怎麼办？" in found
    plain = sum(reword("早上好！", np.random.default_rng(n)) == "早上好！" for n in range(200))
    assert 140 < plain < 190


def test_only_numbers_become_digits(no_converter):
    assert not any("1" in text for text in drawn("一起去吧，一定要来。"))
    assert "5岁" in drawn("五岁")


def test_traditional_characters():
    assert traditional("我睡了三个月，怎么办？") == "我睡了三個月，怎麼辦？"
    assert wording.traditional("你好") == "你好"


def test_a_line_is_said_loosely_in_all_ways():
    line = "我睡不着，怎么办？"
    said = {loosen(line, np.random.default_rng(seed)) for seed in range(400)}
    assert line in said and "怎么办，我睡不着。" in said
    assert any(text.startswith(wording.OPENINGS) for text in said)
    assert any(text.endswith(wording.CLOSINGS) for text in said)
    assert "我睡着，怎么办？" in said and any(
        f"我{h}睡不着" in t for t in said for h in ("啊", "呃")
    )


def test_a_short_line_is_never_lost(monkeypatch):
    monkeypatch.setattr(wording, "LOST_SHARE", 0.9)
    said = [loosen("早。", np.random.default_rng(seed)) for seed in range(50)]
    assert all("早" in text for text in said)


def test_a_line_may_take_back_the_one_before_where_there_is_one():
    for may_correct in (False, True):
        said = [as_said("我睡不着。", may_correct, np.random.default_rng(n)) for n in range(200)]
        assert "我睡不着。" in said
        assert any(text.startswith(wording.CORRECTIONS) for text in said) == may_correct
        assert as_said("", may_correct, np.random.default_rng(0)) == ""


def test_pieces_are_those_of_the_line():
    line = "我睡不着，怎么办？"
    cut = [pieces(line, np.random.default_rng(n)) for n in range(50)]
    assert all("".join(parts) == line and all(parts) for parts in cut)
    assert {1, 2, 3} <= {len(parts) for parts in cut}
    assert pieces(line, None) == [line]
