"""Generation: replies frame by frame, any number of them in one step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from ...logits import LEAST_SETTING
from ...transformer import KVCache
from .engines import EagerEngine
from .model import DualARTransformer
from .sampling import WINDOW_SIZE, SamplingConfig, draw_points

MAX_MARKS = 64  # of a reply, so that none is written for ever without being spoken


def mark_room(marks: Collection[int]) -> int:
    """The columns that a reply may take beyond those it speaks."""
    return MAX_MARKS if marks else 0


class Reply:
    """A reply in the making: all that one row of `next_frames` keeps between its frames.

    Nothing in it is shared, so replies can join and leave the stepping between any two frames.

    A mark is written, not spoken: its frame is its token over pad codes, for which the fast stack
    isn't run, and what counts or repeats frames (`max_new_tokens`, the repetition window) passes
    it over. A reply has at most `MAX_MARKS`; each further one is `<|semantic|>` and speaks.

    Args:
        model: the model that will make the reply.
        prompt: [1+K, T] long, T >= 1; columns not yet in the cache.
        max_new_tokens: the reply ends after that many spoken frames.
        sampling: how tokens are drawn.
        end_id: the text token that ends the reply; None goes on to max_new_tokens.
        cache: the conversation so far; None for a conversation of this prompt and reply alone.
        forced: text tokens of the first frames, marks included (a mark beyond `MAX_MARKS`, sampled
            ones counted, is `<|semantic|>` here too); None where the sampled one stays.
        marks: text tokens that are written, not spoken.
        leanings: [vocab] float32 to be added to a frame's text logits, by its place from 0 on,
            marks included.
        settled: places, counted so, whose text token is not drawn: the likeliest is taken.
        characters: text tokens that are a character each, where a reply's characters stand beside
            their speech. The first two spoken frames have one at most, as nobody speaks faster:
            two come of words that were learned without their speech, which would go on so.

    Raises:
        ValueError: a prompt of the wrong shape, ids out of range, too many forced marks, or not
            enough room.
    """

    def __init__(
        self,
        model: DualARTransformer,
        prompt: Tensor,
        max_new_tokens: int,
        sampling: SamplingConfig,
        end_id: int | None = None,
        *,
        cache: KVCache | None = None,
        forced: Sequence[int | None] = (),
        marks: Collection[int] = (),
        leanings: Mapping[int, Tensor] | None = None,
        settled: Collection[int] = (),
        characters: Collection[int] = (),
    ):
        _check_prompt(model, prompt, forced, marks)
        _check_room(model, prompt, max_new_tokens, cache, marks)
        if cache is None:
            cache = model.new_cache(prompt.shape[1] + max_new_tokens + mark_room(marks))
        self.cache = cache
        self.max_new_tokens = max_new_tokens
        self.sampling = sampling
        self.end_id = end_id
        self.forced = tuple(forced)
        self.marks = frozenset(marks)
        self.leanings = {n: leaning.to(model.device) for n, leaning in (leanings or {}).items()}
        self.settled = frozenset(settled)
        self.characters = frozenset(characters)
        self.frames: list[Tensor] = []  # [1+K], as `next_frames` gave them
        self.columns: list[Tensor] = []  # [1+K], as the model reads them
        self.num_spoken = 0  # of them
        self.ended = False
        self.generator = torch.Generator(model.device)
        if sampling.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(sampling.seed)
        self.unread = prompt.to(model.device, torch.long)
        self.window = self.unread.new_zeros(prompt.shape[0], WINDOW_SIZE)
        self._last_codes = self.unread.new_ones(prompt.shape[0] - 1)
        self._semantic_id = model.semantic_id

    @property
    def penalty(self) -> float:
        """Repetition penalty of the next frame; there is none until one was spoken."""
        return self.sampling.repetition_penalty if self.num_spoken else 1.0

    def snapshot(self) -> Callable[[], None]:
        """Returns what brings the reply back to where it is now, after a step that failed."""
        length, num_columns = self.cache.length, len(self.columns)
        state = self.generator.get_state()
        kept = {
            "num_spoken": self.num_spoken,
            "unread": self.unread,
            "window": self.window.clone(),
            "ended": self.ended,
            "_last_codes": self._last_codes,
        }

        def restore() -> None:
            self.cache.truncate(min(length, self.cache.length))
            self.generator.set_state(state)
            del self.columns[num_columns:], self.frames[num_columns:]
            vars(self).update(kept)

        return restore

    @property
    def leaning(self) -> Tensor | None:
        """What is added to the next frame's text logits [vocab]."""
        return self.leanings.get(len(self.columns))

    @property
    def is_settled(self) -> bool:
        """The next frame's text token is not left to chance, but the likeliest."""
        return len(self.columns) in self.settled

    def choose_text(self, found: int) -> int:
        """The next frame's text token: the forced one, if there is one, else that which was found,
        the sampled or the likeliest one."""
        column = len(self.columns)
        forced = self.forced[column] if column < len(self.forced) else None
        text = found if forced is None else forced
        is_too_fast = forced is None and self._hurries(text)
        if is_too_fast or text in self.marks and column - self.num_spoken >= MAX_MARKS:
            return self._semantic_id
        return text

    def _hurries(self, text: int) -> bool:
        """It would be a character right behind that of the first spoken frame."""
        before = int(self.columns[-1][0]) if self.num_spoken == 1 else None
        return before in self.characters and text in self.characters

    def add(self, frame: Tensor) -> Tensor:
        """Speak a frame [1+K] as the reply's next, and return it with its pad codes replaced."""
        if self.num_spoken:
            # The first one never enters the window, whose unfilled places hold id 0.
            self.window[:, (self.num_spoken - 1) % WINDOW_SIZE] = frame
        self.num_spoken += 1
        self.ended = self.num_spoken == self.max_new_tokens
        self._last_codes = torch.where(frame[1:] == 0, self._last_codes, frame[1:])
        return self._keep(frame, torch.cat([frame[:1], self._last_codes]))

    def add_mark(self, token: int) -> Tensor:
        """Write a mark as the reply's next frame, and return that, [1+K]."""
        frame = self.unread.new_zeros(len(self.unread))
        frame[0] = token
        return self._keep(frame, frame)

    def _keep(self, column: Tensor, frame: Tensor) -> Tensor:
        self.unread = column[:, None]
        self.columns.append(column)
        self.frames.append(frame)
        return frame


def _check_prompt(
    model: DualARTransformer,
    prompt: Tensor,
    forced: Sequence[int | None],
    marks: Collection[int],
) -> None:
    config = model.config
    num_rows = 1 + config.num_codebooks
    if prompt.dim() != 2 or prompt.shape[0] != num_rows or prompt.shape[1] < 1:
        raise ValueError(
            f"the prompt has shape {list(prompt.shape)}, but must be [{num_rows}, T] with T >= 1: "
            f"one row of text tokens and {config.num_codebooks} of codes"
        )
    if prompt.is_floating_point() or prompt.is_complex() or prompt.dtype == torch.bool:
        raise ValueError(f"the prompt is {prompt.dtype}, but must hold integers, as torch.long")
    _check_ids("text tokens in the prompt", prompt[0].tolist(), config.vocab_size)
    _check_ids("codes in the prompt", prompt[1:].flatten().tolist(), config.codebook_size)
    _check_ids("forced tokens", [id for id in forced if id is not None], config.vocab_size)
    _check_ids("marks", list(marks), config.vocab_size)
    num_marks = sum(id in marks for id in forced)
    if num_marks > MAX_MARKS:
        raise ValueError(
            f"{num_marks} of the forced tokens are marks, but a reply has at most {MAX_MARKS}: "
            "force fewer"
        )


def _check_room(
    model: DualARTransformer,
    prompt: Tensor,
    max_new_tokens: int,
    cache: KVCache | None,
    marks: Collection[int],
) -> None:
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}, but must be at least 1")
    used, room = (0, model.config.max_seq_len) if cache is None else (cache.length, cache.max_len)
    if used + prompt.shape[1] + max_new_tokens + mark_room(marks) > room:
        for_marks = f", {mark_room(marks)} for marks" if marks else ""
        raise ValueError(
            f"{used} past positions, a prompt of {prompt.shape[1]}{for_marks} and max_new_tokens "
            f"{max_new_tokens} are more than the {room} there is room for: ask for fewer tokens, "
            "shorten the prompt, or begin a new conversation"
        )


def _check_ids(what: str, ids: list[int], size: int) -> None:
    if ids and not 0 <= min(ids) <= max(ids) < size:
        raise ValueError(
            f"{what} reach from {min(ids)} to {max(ids)}, but the model has 0 to {size - 1}: "
            "use the tokenizer and codec published with the model"
        )


def next_frames(engine: EagerEngine, replies: Sequence[Reply]) -> list[Tensor | None]:
    """Make the next frame of each reply, reading each model weight once for all of them.

    Prompts are read one by one, before their first frame.

    Code 0, the pad, is returned beneath marks alone, though the model may draw it elsewhere and
    goes on from it as the published one does: in its place stands the codebook's last code that was
    not 0 (1 if the reply has none yet).

    Args:
        engine: of the model that the replies were made for.
        replies: none of which has ended.

    Returns:
        For each reply its frame [1+K] long, or None where the end token came, which ends the
        reply. A reply's cache then holds its prompt and all its frames; else all but the last.
    """
    assert not any(reply.ended for reply in replies), "an ended reply cannot be stepped"
    with engine.stepping():
        frames = _step(engine, replies)
    # Copied outside of inference mode, so that the caller may use them in training too.
    return [None if frame is None else frame.clone() for frame in frames]


@torch.inference_mode()
def _step(engine: EagerEngine, replies: Sequence[Reply]) -> list[Tensor | None]:
    hidden = _read(engine, replies)
    drawing = _Drawing(replies)
    found = engine.find_texts(
        hidden,
        [reply.leaning for reply in replies],
        [reply.is_settled for reply in replies],
        drawing.window[:, 0],
        drawing.settings,
        drawing.points[:, 0],
    )
    texts = [reply.choose_text(token) for reply, token in zip(replies, found, strict=True)]
    for reply, text in zip(replies, texts, strict=True):
        reply.ended = text == reply.end_id

    live = [row for row, reply in enumerate(replies) if not reply.ended]
    spoken = [row for row in live if texts[row] not in replies[row].marks]
    frames: list[Tensor | None] = [None] * len(replies)
    if spoken:
        if len(spoken) < len(replies):
            hidden = hidden[spoken]
            drawing.keep(spoken)
        windows, points = drawing.window[:, 1:], drawing.points[:, 1:]
        codes = engine.draw_codes(hidden, windows, drawing.settings, points)
        tokens = codes.new_tensor([[texts[row]] for row in spoken])
        for row, frame in zip(spoken, torch.cat([tokens, codes], dim=1), strict=True):
            frames[row] = replies[row].add(frame)
    for row in live:
        if texts[row] in replies[row].marks:
            frames[row] = replies[row].add_mark(texts[row])
    return frames


@torch.inference_mode()
def _read(engine: EagerEngine, replies: Sequence[Reply]) -> Tensor:
    """Let the slow stack read what each reply has not yet; returns the last hidden [B, dim]."""
    prompts = {
        row: engine.read(reply.unread[None], [reply.cache])[:, -1]
        for row, reply in enumerate(replies)
        if reply.unread.shape[1] > 1
    }
    single = [reply for row, reply in enumerate(replies) if row not in prompts]
    if not single:
        return torch.cat(list(prompts.values()))
    columns = torch.stack([reply.unread for reply in single])
    stepped = engine.read(columns, [reply.cache for reply in single])[:, -1]
    if not prompts:
        return stepped
    steps = iter(stepped.split(1))
    return torch.cat([prompts[n] if n in prompts else next(steps) for n in range(len(replies))])


class _Drawing:
    """The settings, windows and points of several replies, side by side for one frame."""

    def __init__(self, replies: Sequence[Reply]):
        settings = [
            [
                max(LEAST_SETTING, x)
                for x in (r.sampling.temperature, r.sampling.kept_mass, r.penalty)
            ]
            for r in replies
        ]
        self.window = torch.stack([reply.window for reply in replies])  # [B, 1+K, W]
        self.settings = torch.tensor(settings, device=self.window.device)
        self.points = draw_points([reply.generator for reply in replies], self.window.shape[1])

    def keep(self, rows: Sequence[int]) -> None:
        """Leave out the other replies."""
        self.window, self.settings, self.points = (
            x[rows] for x in (self.window, self.settings, self.points)
        )
