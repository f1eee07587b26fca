"""Which syllables follow which is counted in users' lines."""

from pathlib import Path

import numpy as np

from models.westlake.syllables import START, SYLLABLES_FILE, read_syllables
from training.dialogues import Dialogues
from training.language.syllables import count_syllables
from training.language.tokenizer import heard_syllables
from training.speech.pinyin import plain_syllables


def test_lines_are_likelier_than_their_syllables_in_disorder(dialogues: Dialogues, tmp_path: Path):
    count_syllables(dialogues, tmp_path / SYLLABLES_FILE)
    model = read_syllables(tmp_path / SYLLABLES_FILE)
    assert list(model.names) == heard_syllables(dialogues)
    size = 1 + len(model.names)
    np.testing.assert_allclose(np.exp(model.bigrams).sum(1), np.ones(size), atol=0.01)
    rng = np.random.default_rng(0)

    def likelihood(said: list[int]) -> float:
        line = [START, START, *said]
        return sum(model.followers(a, b)[c] for a, b, c in zip(line, line[1:], said))

    ordered = disordered = 0.0
    for intent in dialogues.intents:
        for text in intent.users:
            said = [1 + model.names.index(name) for name in plain_syllables(text)]
            ordered += likelihood(said)
            disordered += likelihood(rng.permutation(said).tolist())
    assert ordered > 0.75 * disordered
    for a, b in ((START, START), (1, 2)):
        assert abs(np.exp(model.followers(a, b)).sum() - 1) < 0.01
