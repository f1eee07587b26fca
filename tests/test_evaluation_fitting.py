"""Lines that several topics fit: what is kept of them, and which replies count."""

from dataclasses import replace

import numpy as np
from fake_evaluation import FakeTeacher

from training.dialogues import load_dialogues
from training.evaluation import questions
from training.evaluation.asking import Answer
from training.evaluation.scores import known_replies
from training.evaluation.understanding import Fit
from training.speech.recordings import Line

DIALOGUES = load_dialogues()


def test_a_further_topic_is_kept_behind_a_correction_and_asked_on():
    text, topics = next(iter(questions.fitting_topics().items()))
    line = Line(source="a.b", text=text, manner="sad", seed=1)
    corrected = replace(line, text=questions.CORRECTIONS[1] + text)
    for each in (line, corrected):
        assert questions._fitting(each, "a.b", []) == topics
    before = [questions.Question(line=line, wanted="a.b", wave=None, written=True, also=topics)]
    asked = replace(line, source="follow.how", text="怎么做？")
    assert questions._fitting(asked, "a.b how", before) == tuple(f"{topic} how" for topic in topics)
    (after,) = questions.follow_ups(FakeTeacher(), DIALOGUES, before, 0)
    assert after.also == tuple(f"{topic} {after.wanted.split()[1]}" for topic in topics)


def test_further_topics_are_of_held_out_lines():
    own = {text: intent.name for intent in DIALOGUES.intents for text in intent.held}
    fitting = questions.fitting_topics()
    assert fitting.keys() <= own.keys() and 0 < len(fitting) < len(own) / 10
    for text, topics in fitting.items():
        assert topics and len(set(topics)) == len(topics) and own[text] not in topics
        assert set(topics) <= set(own.values())


def test_a_reply_of_a_further_topic_fits():
    text, (topic, *_) = next(iter(questions.fitting_topics().items()))
    own = next(intent for intent in DIALOGUES.intents if text in intent.held)
    line = Line(source=own.name, text=text, manner="neutral", seed=1, heldout=True)
    (asked,) = questions.spoken(FakeTeacher(), [line], 0, "text")
    fit, known = Fit(DIALOGUES), known_replies(DIALOGUES)
    other = next(name for name in known if name not in (own.name, *asked.also))
    for name, fits, is_own in ((own.name, 1, 1), (topic, 1, 0), (other, 0, 0)):
        answer = Answer(
            text=known[name][0],
            emotion=None,
            style=None,
            wave=np.zeros(0, np.float32),
            ended=True,
            work_seconds=0.0,
            wait_seconds=None,
        )
        assert (fit.fits(asked, answer), fit.is_of_topic(asked, answer)) == (fits, is_own)
