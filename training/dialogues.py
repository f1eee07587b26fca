"""The dialogues a checkpoint is trained on; training/data/README.md documents their format."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).parent / "data"

NO_EMOTION = "none"  # where there is nothing to tell it from
UNTOLD = "untold"  # of somebody recorded whose emotion nobody knows
EMOTIONS = ("neutral", "happy", "sad", "angry", "anxious", "tired")
STYLES = ("warm", "cheerful", "comforting", "calm", "encouraging")
STYLE_FOR_EMOTION = {
    "neutral": "warm",
    "happy": "cheerful",
    "sad": "comforting",
    "tired": "comforting",
    "angry": "calm",
    "anxious": "encouraging",
    NO_EMOTION: "warm",
}
# The other styles, the one that is most like it first.
NEAR_STYLES = {
    "warm": ("calm", "comforting", "encouraging", "cheerful"),
    "cheerful": ("warm", "encouraging", "calm", "comforting"),
    "comforting": ("warm", "calm", "encouraging", "cheerful"),
    "calm": ("warm", "comforting", "encouraging", "cheerful"),
    "encouraging": ("warm", "cheerful", "calm", "comforting"),
}
FOLLOWUPS = ("how", "more")

_FOLLOW = "follow."
UNKNOWN = "unknown"  # the scene of what can't be answered; noise and silence have no lines
UNCLEAR, SILENT = f"{UNKNOWN}.unclear", f"{UNKNOWN}.silence"
_NAME = re.compile(r"[a-z0-9_]+\.[a-z0-9_]+")
_TEXT = re.compile("[\u4e00-\u9fff，。？！]*[\u4e00-\u9fff][\u4e00-\u9fff，。？！]*")


@dataclass(frozen=True, kw_only=True)
class Intent:
    """One thing a user may want to say, and what the assistant answers."""

    name: str  # "scene.intent"
    scene: str  # the part of the name before the dot
    emotions: tuple[str, ...]  # plausible with these words, the likeliest first
    users: tuple[str, ...]  # paraphrases to train on
    held: tuple[str, ...]  # paraphrases kept for evaluation
    words: tuple[str, ...]  # words and phrases that tell it from the other intents
    replies: dict[str, tuple[str, ...]]  # by style
    then: dict[str, str]  # the answer to a follow-up, by its kind, one of FOLLOWUPS

    def styles(self, emotion: str) -> tuple[str, ...]:
        """The styles that an emotion is answered in: its own, and the nearest with replies of its
        own, so that who asks again hears something else."""
        own = STYLE_FOR_EMOTION[emotion]
        return (own, *[style for style in NEAR_STYLES[own] if style in self.replies][:1])


@dataclass(frozen=True, kw_only=True)
class Dialogues:
    """All intents, in the order of their files, and the follow-up questions they share."""

    intents: tuple[Intent, ...]
    followups: dict[str, tuple[tuple[str, ...], tuple[str, ...]]]  # kind -> (users, held)


@dataclass
class _Block:
    """The lines of one block: `lines[key]` holds (text after the key, where) pairs."""

    name: str
    where: str
    lines: dict[str, list[tuple[str, str]]]

    def texts(self, key: str) -> tuple[str, ...]:
        texts = tuple(text for text, _ in self.lines.get(key, ()))
        if not texts:
            raise ValueError(f"{self.where}: {self.name} has no '{key}' line: add at least one")
        return texts


def load_dialogues(folder: str | Path = DATA) -> Dialogues:
    """Read every .txt file of `folder`.

    Raises:
        ValueError: a line or block that breaks the format, with its file and line; or no files.
    """
    paths = sorted(Path(folder).glob("*.txt"))
    if not paths:
        raise ValueError(f"no .txt file in {folder}: give a folder of dialogue files")
    intents: dict[str, Intent] = {}
    followups: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
    for path in paths:
        for block in _blocks(path):
            kind = block.name.removeprefix(_FOLLOW)
            if block.name in intents or kind in followups:
                raise ValueError(f"{block.where}: {block.name} is there twice: rename one")
            if block.name.startswith(_FOLLOW):
                _check_choice(kind, FOLLOWUPS, "follow-up", block.where)
                _check_keys(block, {"user", "held"})
                followups[kind] = (block.texts("user"), block.texts("held"))
            else:
                intents[block.name] = _intent(block)
    return Dialogues(intents=tuple(intents.values()), followups=followups)


def _blocks(path: Path) -> Iterator[_Block]:
    """Blocks separated by blank lines, each opened by an `@ name` line; `#` starts a comment."""
    block = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        where = f"{path}:{number}"
        line = line.strip()
        if line.startswith("#"):
            continue
        key, _, rest = line.partition(" ")
        rest = rest.strip()
        if block is not None and (not line or key == "@"):
            yield block
            block = None
        if key == "@":
            if not _NAME.fullmatch(rest):
                raise ValueError(f"{where}: intent name {rest!r}: write scene.name in snake case")
            block = _Block(rest, where, {})
        elif line:
            if block is None:
                raise ValueError(f"{where}: {line!r} outside a block: open one with '@ scene.name'")
            block.lines.setdefault(key, []).append((rest, where))
            if key in ("user", "held", "words"):
                for text in rest.split() if key == "words" else [rest]:
                    _check_text(text, where)
    if block is not None:
        yield block


def _intent(block: _Block) -> Intent:
    _check_keys(block, {"emotions", "user", "held", "words", "reply", "then"})
    emotions = tuple(" ".join(block.texts("emotions")).split())
    for emotion in emotions or ("",):
        _check_choice(emotion, EMOTIONS, "emotion", block.lines["emotions"][0][1])
    block.texts("reply")
    replies: dict[str, tuple[str, ...]] = {}
    for style, text, where in _labelled(block, "reply"):
        _check_choice(style, STYLES, "style", where)
        replies[style] = (*replies.get(style, ()), text)
    then: dict[str, str] = {}
    for kind, text, where in _labelled(block, "then"):
        _check_choice(kind, FOLLOWUPS, "follow-up", where)
        if kind in then:
            raise ValueError(f"{where}: a second 'then {kind}' for {block.name}: keep one")
        then[kind] = text
    if missing := [kind for kind in FOLLOWUPS if kind not in then]:
        raise ValueError(f"{block.where}: {block.name} has no 'then {missing[0]}' line: add it")
    scene = block.name.partition(".")[0]
    spoken = scene != UNKNOWN or "user" in block.lines
    return Intent(
        name=block.name,
        scene=scene,
        emotions=emotions,
        users=block.texts("user") if spoken else (),
        held=block.texts("held") if spoken else (),
        words=tuple(word for rest, _ in block.lines.get("words", ()) for word in rest.split()),
        replies=replies,
        then=then,
    )


def _labelled(block: _Block, key: str) -> Iterator[tuple[str, str, str]]:
    """(label, text, where) of each `key label text` line."""
    for rest, where in block.lines.get(key, ()):
        label, _, text = rest.partition(" ")
        _check_text(text, where)
        yield label, text, where


def _check_keys(block: _Block, allowed: set[str]) -> None:
    for key, lines in block.lines.items():
        _check_choice(key, sorted(allowed), "line", lines[0][1])


def _check_choice(value: str, allowed: list[str] | tuple[str, ...], what: str, where: str) -> None:
    if value not in allowed:
        raise ValueError(f"{where}: unknown {what} {value!r}: use one of {', '.join(allowed)}")


def _check_text(text: str, where: str) -> None:
    if not _TEXT.fullmatch(text):
        raise ValueError(f"{where}: {text!r}: write Chinese characters and ，。？！ only")
