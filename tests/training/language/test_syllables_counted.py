"""Which syllables follow which is counted in users' lines."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.westlake.syllables import START, SYLLABLES_FILE, read_syllables
from training.dialogues import Dialogues
from training.language import syllables
from training.language.syllables import DISCOUNT, count_syllables
from training.language.tokenizer import heard_syllables
from training.speech.pinyin import plain_syllables


def test_lines_are_likelier_than_their_syllables_in_disorder(dialogues: Dialogues, tmp_path: Path):
    count_syllables(dialogues, heard_syllables(dialogues), tmp_path / SYLLABLES_FILE)
    model = read_syllables(tmp_path / SYLLABLES_FILE)
    assert list(model.names) == heard_syllables(dialogues)
    size = 1 + len(model.names)
    np.testing.assert_allclose(np.exp(model.bigrams).sum(1), np.ones(size), atol=0.01)
    rng = np.random.default_rng(0)

    def likelihood(said: list[int]) -> float:
        return sum(model.followers(said[:n])[place] for n, place in enumerate(said))

    ordered = disordered = 0.0
    for intent in dialogues.intents:
        for text in intent.users:
            said = [1 + model.names.index(name) for name in plain_syllables(text)]
            ordered += likelihood(said)
            disordered += likelihood(rng.permutation(said).tolist())
            for end in range(len(said)):
                assert abs(np.exp(model.followers(said[:end])).sum() - 1) < 0.01
    assert ordered > 0.75 * disordered


def test_shorter_contexts_count_what_comes_before(
    dialogues: Dialogues, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("OPENINGS", "CLOSINGS", "CORRECTIONS"):
        monkeypatch.setattr(syllables, name, ())
    followups = {kind: ((), held) for kind, (_, held) in dialogues.followups.items()}
    lines = ("你好你好你", "他好吗", "他好吗", "我好吗")
    intent = replace(dialogues.intents[0], users=lines)
    small = replace(dialogues, intents=(intent,), followups=followups)
    names = ["hao", "ma", "ni", "ta"]  # and `wo`, which it does not tell apart
    count_syllables(small, names, tmp_path / SYLLABLES_FILE)
    model = read_syllables(tmp_path / SYLLABLES_FILE)
    hao, ma, ni, ta = range(1, 5)
    two, three = model.longer
    size = len(model.bigrams)

    def share(told, context: int | None, place: int) -> float:
        found = told.find(context, place)
        return 0.0 if found is None else float(told.shares[found])

    # A line's start has nothing before it, so all lines count: four, `wo` left out of one.
    counted = {ni: 1, hao: 1, ta: 2, ma: 0}
    for place, number in counted.items():
        assert share(two, size * START + START, place) == max(0, number - DISCOUNT) / 4
    # `hao ma` comes three times, behind two; `hao ni` twice, behind `ni` alone.
    # And by themselves `ma` comes behind one, `ni` behind two: half of it is shared out so.
    after = np.exp(model.bigrams[hao])
    assert after[ma] - after[ni] == pytest.approx(1 / 3 - 0.5 / 9.5, abs=1e-3)
    # The longest count as they come: `_ ta hao` is followed by `ma` both times.
    behind_two = two.find(size * START + ta, hao)
    assert share(three, behind_two, ma) == (2 - DISCOUNT) / 2
    assert two.find(size * hao + ma, hao) is None
