"""What mood the words of a line tell: written alone, it has no voice that would tell another."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

SAY = 6.0  # added to the logit of the emotion that the words tell

# What somebody says who feels so.
MOOD_WORDS = {
    "happy": "开心(?!果)|高兴|(?<![日节年])快乐|激动|兴奋|太棒|太好了|乐坏|乐开花|乐疯|幸福|美滋滋"
    "|喜出望外|哈哈(?!镜)|心情(?:[很真超大挺蛮]|特别|非常|相当|格外|超级)好|心情不错|心情好(?:极了|多了)|笑得合不拢嘴",
    "sad": "难过|伤心|想哭|心碎|心酸|悲伤|失落|委屈|沮丧|绝望|心痛|孤单|孤独|心里堵|心凉",
    "angry": "气死|生气|气人|(?<!空)气炸|气坏|火大|窝火|恼火|愤怒|可恶|太过分|(?<!麻)烦死"
    "|忍无可忍|岂有此理",
    "anxious": "担心|紧张|害怕|好怕|真怕|怕得|焦虑|着急|急死|心慌|好慌|忐忑|不安(?![全装静排])"
    "|提心吊胆|愁死|发愁",
    "tired": "[好很太真]累|(?<![积连])累[得死坏垮趴人了]|疲惫|疲倦|疲劳|没力气|[精筋]疲力尽|乏力"
    "|[好很太]困(?![难扰惑])|困[死得了]",
}
# How a mood's words stand where they tell it: behind no denial, before none and no question.
TOLD = (
    "(?<![不没未])(?<!(?<!特)别)(?<![不没别]要)(?<!不[太用])(?<!不怎么)(?<!不是很)"
    "(?:{})(?!不起来|[吗么]？)"
)
ASKED = re.compile("你[会也能]")  # whether the assistant feels so


def told_emotion(text: str) -> str | None:
    """The emotion that the words tell, one of `EMOTIONS`; None where they tell none, or several.

    Whose it is they don't tell: a line about somebody who is angry counts as angry.
    """
    if ASKED.search(text):
        return None
    told = [mood for mood, words in MOOD_WORDS.items() if re.search(TOLD.format(words), text)]
    return told[0] if len(told) == 1 else None


def told_leaning(text: str, emotion_ids: Mapping[str, int], vocab_size: int) -> Tensor | None:
    """What written words add to the text logits where the emotion is written.

    Args:
        text: of a turn.
        emotion_ids: the text token of each emotion that the model writes.
        vocab_size: of the text tokens.

    Returns:
        [vocab] float32; None where they tell none of these.
    """
    emotion = told_emotion(text)
    if emotion is None or emotion not in emotion_ids:
        return None
    leaning = torch.zeros(vocab_size)
    leaning[emotion_ids[emotion]] = SAY
    return leaning
