"""The text tokenizer of a checkpoint folder."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from .errors import UserError
from .weights import refuse_lfs_pointer

TOKENIZER_FILES = ("tokenizer.json", "vocab.json")
PLAIN_CLASS = "PreTrainedTokenizerFast"  # all of it stands in tokenizer.json,
MORE_TOKENS = "added_tokens_decoder"  # unless the config has this,
MORE_FILES = ("added_tokens.json", "special_tokens_map.json")  # one of these lies beside it,
# or the config names tokens under these that are not there.
TOKEN_KEYS = tuple(f"{kind}_token" for kind in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
TOKEN_LIST_KEYS = ("additional_special_tokens", "extra_special_tokens")
# What the model notes of a turn: who spoke and how, how it answers, what it heard, of which topic.
MARK = r"<\|(user|(user|style|heard|topic):[^|]+)\|>"
REQUIRED_TOKENS = ("<|semantic|>", "<|im_start|>", "<|im_end|>")


class TextTokenizer:
    """Text -> tokens -> text.

    Args:
        backend: the rules by which it is done; all of a text is read, and nothing is filled up.
    """

    def __init__(self, backend: Tokenizer) -> None:
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self._vocab = backend.get_vocab()
        added = backend.get_added_tokens_decoder()
        self._added_vocab = {added[id].content: id for id in sorted(added)}

    def __len__(self) -> int:
        return len(self._vocab)

    def encode(self, text: str) -> list[int]:
        """The ids of a text; control tokens in it are found."""
        return self.backend.encode(text).ids

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """The text of ids."""
        return self.backend.decode(list(map(int, ids)), skip_special_tokens=skip_special_tokens)

    def get_vocab(self) -> dict[str, int]:
        """The ids of all tokens; read only."""
        return self._vocab

    def get_added_vocab(self) -> dict[str, int]:
        """Those of the control tokens, in their order; read only."""
        return self._added_vocab


def load_tokenizer(
    folder: Path, vocab_size: int, required: Sequence[str] = REQUIRED_TOKENS
) -> TextTokenizer:
    """Load a folder's tokenizer, without the network and without running code from the folder.

    Args:
        folder: with tokenizer.json, or an older vocab.json and merges.txt.
        vocab_size: number of text tokens the model has.
        required: special tokens that it must have.

    Raises:
        ValueError: files that are missing or damaged, a special token that is missing, or an id
            that the model does not have.
    """
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ValueError(f"{folder} has no tokenizer: put {' or '.join(TOKENIZER_FILES)} there")
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            refuse_lfs_pointer(folder / name)
    try:
        tokenizer = _read(folder)
    except Exception as error:  # what the tokenizers library raises has no narrower type
        raise ValueError(f"the tokenizer in {folder} can't be read: {error}") from error
    special_ids = tokenizer.get_added_vocab()
    missing = [token for token in required if token not in special_ids]
    if missing:
        raise ValueError(
            f"the tokenizer in {folder} has no special token {', '.join(missing)}: "
            "use the one that belongs to the model"
        )
    token, highest = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if highest >= vocab_size:
        raise ValueError(
            f"the tokenizer in {folder} gives {token} the id {highest}, but config.json says "
            f"vocab_size {vocab_size}: use the tokenizer that belongs to the model"
        )
    return tokenizer


def _read(folder: Path) -> TextTokenizer:
    """The tokenizer of its class; only where tokenizer.json is not all of it, all are imported."""
    path, config_path = folder / TOKENIZER_FILES[0], folder / "tokenizer_config.json"
    config = json.loads(config_path.read_text(encoding="utf-8")) if config_path.is_file() else {}
    is_plain = config.get("tokenizer_class") == PLAIN_CLASS and MORE_TOKENS not in config
    if is_plain and path.is_file() and not any((folder / name).is_file() for name in MORE_FILES):
        plain = TextTokenizer(Tokenizer.from_file(str(path)))
        if _named_tokens(config) <= plain.get_added_vocab().keys():
            return plain
    from transformers import AutoTokenizer  # here, as this import takes seconds

    tokenizer = AutoTokenizer.from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=False
    )
    return TextTokenizer(tokenizer.backend_tokenizer)


def _named_tokens(config: dict) -> set[str]:
    """The tokens that a tokenizer_config.json calls special."""
    named = [config.get(key) for key in TOKEN_KEYS]
    for key in TOKEN_LIST_KEYS:
        more = config.get(key) or []
        named += more.values() if isinstance(more, dict) else more
    return {token["content"] if isinstance(token, dict) else token for token in named if token}


def save_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Write tokenizer.json and tokenizer_config.json, from which `load_tokenizer` loads."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": PLAIN_CLASS,
        "eos_token": "<|im_end|>",
        "clean_up_tokenization_spaces": False,
    }
    text = json.dumps(config, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def special_words(tokenizer: TextTokenizer, kind: str) -> dict[str, int]:
    """The ids of the special tokens `<|kind:word|>`, under their words and in order of the ids."""
    added = sorted(tokenizer.get_added_vocab().items(), key=lambda item: item[1])
    matches = ((re.fullmatch(rf"<\|{kind}:([^|]+)\|>", token), id) for token, id in added)
    return {match[1]: id for match, id in matches if match}


def mark_ids(tokenizer: TextTokenizer) -> frozenset[int]:
    """The ids of the special tokens that a reply writes and doesn't speak, see `MARK`."""
    added = tokenizer.get_added_vocab().items()
    return frozenset(id for token, id in added if re.fullmatch(MARK, token))


def max_characters(tokenizer: TextTokenizer, num_tokens: int) -> int:
    """No text of more characters is of so few tokens."""
    return num_tokens * max(map(len, tokenizer.get_vocab()))


def character_ids(tokenizer: TextTokenizer) -> frozenset[int]:
    """The ids of the tokens that are one Chinese character each."""
    ids = tokenizer.get_vocab().values()
    return frozenset(id for id in ids if re.fullmatch("[\u4e00-\u9fff]", tokenizer.decode([id])))


def text_tokens(tokenizer: TextTokenizer, text: str) -> list[int]:
    """A user's text as tokens; what looks like a control token in it is text as well.

    Raises:
        UserError: it has characters that are no Unicode.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError("error_text_not_unicode") from None
    control = tokenizer.get_added_vocab()
    pattern = f"({'|'.join(map(re.escape, control))})"
    pieces: list[str] = []
    for part in re.split(pattern, text) if control else [text]:
        pieces += [part[:1], part[1:]] if part in control else [part]
    return [id for piece in pieces if piece for id in tokenizer.encode(piece)]


class TextDecoder:
    """Tokens one by one -> text; the first bytes of a character wait for its last.

    Args:
        tokenizer: of the checkpoint.
        silent: tokens that are no text.
    """

    def __init__(self, tokenizer: TextTokenizer, silent: Collection[int]) -> None:
        self.tokenizer = tokenizer
        self.silent = silent
        self._ids: list[int] = []
        self._length = 0

    def push(self, token: int) -> str:
        """Returns the characters that are complete now and were not before."""
        if token in self.silent:
            return ""
        self._ids.append(token)
        text = self.tokenizer.decode(self._ids, skip_special_tokens=True).rstrip("\ufffd")
        new = text[self._length :]
        self._length = max(self._length, len(text))
        return new.replace("\ufffd", "")
