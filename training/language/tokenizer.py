"""The embedded checkpoint's tokenizer, trained on the dialogues."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from loguru import logger
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from models.tokenizer import save_tokenizer

from ..dialogues import EMOTIONS, NO_EMOTION, STYLES, Dialogues, Intent
from ..files import replacing
from ..speech.pinyin import plain_syllables
from .wording import traditional

VOCAB_SIZE = 4800
CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|semantic|>")
# How Qwen2 cuts text into words, before the merges: published with its tokenizer.
QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def emotion_token(emotion: str) -> str:
    """What a reply begins with: the user's emotion, or that there is nothing to tell it from."""
    return "<|user|>" if emotion == NO_EMOTION else f"<|user:{emotion}|>"


def topic_token(question: str) -> str:
    """What a reply says third, unheard: what it replies to, see `questions_of`."""
    return f"<|topic:{question}|>"


def heard_token(syllable: str) -> str:
    """What the model writes down while it hears a syllable."""
    return f"<|heard:{syllable}|>"


def heard_syllables(dialogues: Dialogues) -> list[str]:
    """All syllables that users' lines are made of, without tones."""
    asked = {text for intent in dialogues.intents for text in intent.users}
    asked |= {text for users, _ in dialogues.followups.values() for text in users}
    return sorted({name for text in asked for name in plain_syllables(text)})


def late_tokens(dialogues: Dialogues) -> list[str]:
    """The special tokens that come behind all others: topics, and syllables heard."""
    heard = map(heard_token, heard_syllables(dialogues))
    return [*map(topic_token, questions_of(dialogues.intents)), *heard]


def special_tokens() -> list[str]:
    """The other special tokens, in the order of their ids, from 0.

    `<|endoftext|>`, which no reply holds, is 0: what fills the repetition window at first.
    """
    emotions = [emotion_token(emotion) for emotion in (*EMOTIONS, NO_EMOTION)]
    return [*CONTROL_TOKENS, *emotions, *(f"<|style:{style}|>" for style in STYLES)]


def questions_of(intents: Iterable[Intent]) -> list[str]:
    """All that a turn may ask: an intent, or one and the kind of its follow-up."""
    return sorted(
        name
        for intent in intents
        for name in (intent.name, *(f"{intent.name}.{kind}" for kind in intent.then))
    )


def training_lines(dialogues: Dialogues) -> Iterator[str]:
    """Every utterance and reply under its role, as in a prompt; held-out utterances stay unseen."""
    for intent in dialogues.intents:
        yield from (f"user\n{text}" for text in intent.users)
        yield from (f"user\n{traditional(text)}" for text in intent.users)
        yield from (f"assistant\n{text}" for texts in intent.replies.values() for text in texts)
        yield from (f"assistant\n{text}" for text in intent.then.values())
    for users, _ in dialogues.followups.values():
        yield from (f"user\n{text}" for text in users)


def train_tokenizer(
    lines: Iterable[str], vocab_size: int = VOCAB_SIZE, late: Sequence[str] = ()
) -> Tokenizer:
    """Train a byte-level BPE of the Qwen2 kind; the same lines give the same tokenizer.

    Args:
        lines: the text to learn merges from.
        vocab_size: special tokens, the 256 bytes and the merges together; a pair seen only once is
            not merged, so little text may give fewer.
        late: special tokens that come behind all others.

    Raises:
        ValueError: vocab_size leaves no room for merges.
    """
    smallest = len(special_tokens()) + len(pre_tokenizers.ByteLevel.alphabet())
    if vocab_size <= smallest:
        raise ValueError(f"vocab_size must be above {smallest} (specials and bytes): {vocab_size}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=special_tokens(),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.add_special_tokens(list(late))
    return tokenizer


def write_tokenizer(dialogues: Dialogues, folder: Path, vocab_size: int = VOCAB_SIZE) -> None:
    """Train on the dialogues, write the files into a new `folder`, and log how dense it is."""
    lines = list(training_lines(dialogues))
    tokenizer = train_tokenizer(lines, vocab_size, late_tokens(dialogues))
    with replacing(folder) as temporary:
        temporary.mkdir(parents=True, exist_ok=True)
        save_tokenizer(temporary, tokenizer)
    texts = [line.partition("\n")[2] for line in lines]
    num_tokens = sum(len(encoding) for encoding in tokenizer.encode_batch(texts))
    density = num_tokens / sum(map(len, texts))
    size = tokenizer.get_vocab_size()
    logger.info(f"tokenizer: {size} tokens, {density:.2f} a character over {len(texts)} lines")
