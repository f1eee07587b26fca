"""The dialogues' parser, and the shipped dialogues."""

import re
from pathlib import Path

import pytest

from training.dialogues import (
    EMOTIONS,
    FOLLOWUPS,
    NEAR_STYLES,
    NO_EMOTION,
    STYLE_FOR_EMOTION,
    STYLES,
    UNKNOWN,
    Dialogues,
    load_dialogues,
)
from training.speech.speakers import STYLE_PROSODY, USER_PROSODY

INSOMNIA = """\
# a comment
@ health.insomnia
emotions tired anxious
user 我最近总是睡不着。
user 晚上睡不着觉怎么办？
held 躺了两个小时还是没有睡意。
words 失眠 数羊
words 辗转反侧
reply comforting 睡不着真难受。
reply warm 慢慢会好的。
reply warm 早点睡吧。
then how 听点轻音乐。
then more 多晒晒太阳。
"""
FOLLOW = """\
@ follow.how
user 那我该怎么办？
held 我该怎么做？

@ follow.more
user 还有呢？
held 还有别的吗？
"""
SILENCE = """\
@ unknown.silence
emotions neutral
reply warm 我什么也没听到。
then how 打开麦克风。
then more 看看音量。
"""
HOTLINES = ("幺二三五六", "幺二零", "幺幺零")
PEOPLE = re.compile("家人|身边的人|有人的地方|朋友|医生")


def write(folder: Path, intents: str = INSOMNIA) -> Path:
    (folder / "health.txt").write_text(intents, encoding="utf-8")
    (folder / "followups.txt").write_text(FOLLOW, encoding="utf-8")
    return folder


# ---- the parser


def test_parser_reads_blocks(tmp_path: Path) -> None:
    dialogues = load_dialogues(write(tmp_path))
    (intent,) = dialogues.intents
    assert (intent.name, intent.scene) == ("health.insomnia", "health")
    assert intent.emotions == ("tired", "anxious")
    assert intent.users == ("我最近总是睡不着。", "晚上睡不着觉怎么办？")
    assert intent.held == ("躺了两个小时还是没有睡意。",)
    assert intent.words == ("失眠", "数羊", "辗转反侧")
    assert intent.replies == {
        "comforting": ("睡不着真难受。",),
        "warm": ("慢慢会好的。", "早点睡吧。"),
    }
    assert intent.then == {"how": "听点轻音乐。", "more": "多晒晒太阳。"}
    assert dialogues.followups["more"] == (("还有呢？",), ("还有别的吗？",))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("emotions tired", "emotions bored", r"health\.txt:3: unknown emotion 'bored'"),
        ("emotions tired", "emotions none", r"health\.txt:3: unknown emotion 'none'"),
        ("reply warm 早点", "reply loud 早点", r"health\.txt:11: unknown style 'loud'"),
        ("then more", "then why", r"health\.txt:13: unknown follow-up 'why'"),
        ("then more", "then how", r"health\.txt:13: a second 'then how'"),
        ("then more 多晒晒太阳。\n", "", r"health\.txt:2: .* no 'then more' line"),
        ("held 躺了", "helt 躺了", r"health\.txt:6: unknown line 'helt'"),
        ("user 我最近", "user 我OK", r"health\.txt:4: '我OK.*Chinese characters"),
        ("words 失眠 数羊", "words 失眠 zzz", r"health\.txt:7: 'zzz': write Chinese"),
        ("reply warm 早点睡吧。", "reply warm", r"health\.txt:11: '': write Chinese"),
        ("@ health.insomnia", "@ Insomnia", r"health\.txt:2: intent name 'Insomnia'"),
        ("@ health.insomnia\n", "", r"health\.txt:2: .* outside a block"),
        ("emotions tired anxious\n", "", r"health\.txt:2: .* no 'emotions' line"),
        ("held 躺了两个小时还是没有睡意。\n", "", r"health\.txt:2: .* no 'held' line"),
        ("# a comment\n", INSOMNIA + "\n", r"health\.txt:15: health\.insomnia is there twice"),
    ],
)
def test_parser_names_file_and_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in INSOMNIA
    with pytest.raises(ValueError, match=message):
        load_dialogues(write(tmp_path, INSOMNIA.replace(old, new, 1)))


def test_only_what_is_unknown_may_have_no_lines(tmp_path: Path) -> None:
    silence = load_dialogues(write(tmp_path, SILENCE)).intents[0]
    assert silence.scene == UNKNOWN and silence.users == silence.held == ()
    with pytest.raises(ValueError, match=r"talk\.silence has no 'user' line"):
        load_dialogues(write(tmp_path, SILENCE.replace("unknown", "talk")))


def test_parser_needs_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no .txt file"):
        load_dialogues(tmp_path)


# ---- the shipped dialogues


def plain(text: str) -> str:
    return re.sub("[，。？！]", "", text)


def replies_of(dialogues: Dialogues) -> list[str]:
    return [
        reply
        for intent in dialogues.intents
        for reply in (*sum(intent.replies.values(), ()), *intent.then.values())
    ]


def test_shipped_dialogues_are_many_and_distinct(shipped: Dialogues) -> None:
    assert len(shipped.intents) >= 120
    users = [user for intent in shipped.intents for user in intent.users]
    held = [text for intent in shipped.intents for text in intent.held]
    for kind in FOLLOWUPS:
        users += shipped.followups[kind][0]
        held += shipped.followups[kind][1]
    for texts, least in ((users, 6000), (held, 900), (replies_of(shipped), 1200)):
        distinct = {plain(text) for text in texts}
        assert len(distinct) == len(texts) >= least
    assert not {plain(text) for text in users} & {plain(text) for text in held}


def test_words_tell_one_topic_each_and_are_no_held_out_lines(shipped: Dialogues) -> None:
    words = [word for intent in shipped.intents for word in intent.words]
    held = {plain(text) for intent in shipped.intents for text in intent.held}
    assert len(set(words)) == len(words) >= 25_000
    assert not set(words) & held
    assert all(len(i.words) >= 100 for i in shipped.intents if i.scene != UNKNOWN)


def test_every_emotion_has_a_reply_in_its_style(shipped: Dialogues) -> None:
    assert set(STYLE_FOR_EMOTION) == {*EMOTIONS, NO_EMOTION} and set(EMOTIONS) == set(USER_PROSODY)
    assert set(STYLE_FOR_EMOTION.values()) == set(STYLES) == set(STYLE_PROSODY)
    for intent in shipped.intents:
        assert STYLE_FOR_EMOTION[intent.emotions[0]] in intent.replies, intent.name
    likely = [(intent, emotion) for intent in shipped.intents for emotion in intent.emotions]
    written = sum(STYLE_FOR_EMOTION[emotion] in intent.replies for intent, emotion in likely)
    assert written > 0.95 * len(likely)  # the others borrow a reply of a near style
    assert {emotion for intent in shipped.intents for emotion in intent.emotions} == set(EMOTIONS)


def test_a_user_is_answered_in_two_styles(shipped: Dialogues) -> None:
    assert all(sorted((own, *near)) == sorted(STYLES) for own, near in NEAR_STYLES.items())
    assert set(NEAR_STYLES) == set(STYLES)
    for intent in shipped.intents:
        for emotion in intent.emotions:
            own, near = intent.styles(emotion)
            assert own == STYLE_FOR_EMOTION[emotion] and near in intent.replies
            others = [style for style in NEAR_STYLES[own] if style in intent.replies]
            assert near == others[0]
            if own in intent.replies:
                assert not set(intent.replies[own]) & set(intent.replies[near])


def test_all_scenes_are_there(shipped: Dialogues) -> None:
    assert {intent.scene for intent in shipped.intents} == {
        "assistant", "customer_service", "daily", "education", "entertainment", "health",
        "leisure", "moods", "people", "talk", "unknown",
    }  # fmt: skip


def test_what_cannot_be_answered(shipped: Dialogues) -> None:
    unknown = {intent.name: intent for intent in shipped.intents if intent.scene == UNKNOWN}
    assert set(unknown) == {"unknown.other", "unknown.unclear", "unknown.silence"}
    assert len(unknown["unknown.other"].users) >= 400 and len(unknown["unknown.other"].held) >= 50
    for name in ("unknown.unclear", "unknown.silence"):  # which nobody says
        assert unknown[name].users == unknown[name].held == ()
        assert sum(map(len, unknown[name].replies.values())) >= 8


def test_a_crisis_is_told_whom_to_turn_to(shipped: Dialogues) -> None:
    (crisis,) = (intent for intent in shipped.intents if intent.name == "people.crisis")
    replies = [*sum(crisis.replies.values(), ()), *crisis.then.values()]
    for reply in replies:
        assert any(number in reply for number in HOTLINES) or PEOPLE.search(reply), reply
    assert sum("幺二三五六" in reply for reply in replies) >= len(replies) / 3
