"""Whether replies fit: to what was said, to what was said before, to what can't be understood."""

from __future__ import annotations

from ..dialogues import UNKNOWN, Dialogues
from .asking import Answer
from .questions import Question
from .scores import AGAIN, is_right_reply, known_pleas, known_replies, known_scenes


class Fit:
    """Judges replies by their words against all that the dialogues reply."""

    def __init__(self, dialogues: Dialogues) -> None:
        self._replies = known_replies(dialogues)
        self._scenes = known_scenes(dialogues)
        self._pleas = known_pleas(dialogues)
        self._texts = {text for texts in self._replies.values() for text in texts}

    def fits(self, question: Question, answer: Answer) -> bool:
        """Whether this is a reply to this question, or to another topic that fits it as well."""
        fitting = (topic for topic in question.also if topic in self._replies)
        return self.is_of_topic(question, answer) or any(
            is_right_reply(answer.text, topic, self._replies) for topic in fitting
        )

    def is_of_topic(self, question: Question, answer: Answer) -> bool:
        """Whether this is a reply to this question, and to no other."""
        return is_right_reply(answer.text, question.wanted, self._replies)

    def is_unknown(self, answer: Answer) -> bool:
        """Whether the reply says that this can't be answered, or wasn't understood."""
        return is_right_reply(answer.text, UNKNOWN, self._scenes)

    def asks_again(self, answer: Answer) -> bool:
        """Whether the reply asks to say it again."""
        return is_right_reply(answer.text, AGAIN, self._pleas)

    def is_taught(self, answer: Answer) -> bool:
        """Whether the reply is one that was taught, word for word, and no mixture of several."""
        return answer.text in self._texts
