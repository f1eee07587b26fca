"""Marks: frames of a reply that are written and not spoken."""

from functools import partial

import pytest
import torch
from parity import ASSETS, SEMANTIC_ID, golden_dual_ar
from safetensors.torch import load_file

from models.westlake.calibration import _speak
from models.westlake.dual_ar import (
    MAX_MARKS,
    DualARTransformer,
    EagerEngine,
    Reply,
    SamplingConfig,
    make_frames,
    next_frames,
)

MARKS = frozenset({6, 7, 8})
MANY = frozenset(range(0, 300, 2)) - {SEMANTIC_ID}
END_ID = 42
WILD = {"temperature": 1.5, "top_p": 0.95}


class Counting(EagerEngine):
    """The engine, and for how many rows its fast stack was run."""

    num_rows = 0

    def draw_codes(self, hidden, *drawing):
        self.num_rows += len(hidden)
        return super().draw_codes(hidden, *drawing)


@pytest.fixture(scope="module")
def model() -> DualARTransformer:
    return golden_dual_ar()


@pytest.fixture(scope="module")
def prompt() -> torch.Tensor:
    return load_file(ASSETS / "dual_ar_a.safetensors")["prompt"].long()


def finish(engine, *replies):
    """All frames of each reply, [1+K, n], stepped together."""
    made = {reply: [] for reply in replies}
    for reply, frame in make_frames(partial(next_frames, engine), replies):
        if frame is not None:
            made[reply].append(frame)
    return [torch.stack(frames, dim=1) for frames in made.values()]


def columns_of(marks):
    columns = torch.zeros(9, len(marks), dtype=torch.long)
    columns[0] = torch.tensor(marks)
    return columns


def test_a_mark_is_its_token_over_pads_and_costs_no_codes(model, prompt):
    engine = Counting(model)
    reply = Reply(model, prompt, 4, SamplingConfig(seed=1), forced=(8, None, 7, 6), marks=MARKS)
    (frames,) = finish(engine, reply)
    assert frames.shape[1] == 7 and reply.num_spoken == engine.num_rows == 4
    is_mark = torch.tensor([True, False, True, True, False, False, False])
    assert torch.equal(frames[:, is_mark], columns_of([8, 7, 6]))
    assert (frames[1:, ~is_mark] > 0).all()
    assert torch.equal(torch.stack(reply.columns, dim=1)[:, is_mark], columns_of([8, 7, 6]))


@pytest.mark.parametrize("penalty", [1.0, 1.9])
def test_a_reply_after_its_marks_is_as_if_they_stood_in_the_prompt(model, prompt, penalty):
    sampling = SamplingConfig(seed=1, repetition_penalty=penalty)
    marked = Reply(model, prompt, 30, sampling, forced=(8, 7, 7), marks=MARKS)
    after = torch.cat([prompt, columns_of([8, 7, 7])], dim=1)
    plain = Reply(model, after, 30, sampling, marks=MARKS)
    for _ in range(3):  # each frame has its draws
        torch.rand(9, generator=plain.generator, dtype=torch.float64)
    frames, expected = (finish(EagerEngine(model), reply)[0] for reply in (marked, plain))
    assert torch.equal(frames[:, 3:], expected)
    assert torch.equal(marked.window, plain.window)


def test_marks_amid_a_reply_enter_no_window_and_change_no_codes_to_come(model, prompt):
    reply = Reply(model, prompt, 12, SamplingConfig(seed=2, **WILD), marks=MANY)
    (frames,) = finish(EagerEngine(model), reply)
    columns = torch.stack(reply.columns, dim=1)
    spoken = [column for column in columns.T if int(column[0]) not in MANY]
    assert len(spoken) == 12 < columns.shape[1] and int(columns[0, -1]) not in MANY
    assert torch.equal(reply.window[:, :11], torch.stack(spoken[1:], dim=1))
    assert not reply.window[:, 11:].any()
    last = frames[:, -1]
    assert torch.equal(reply._last_codes, last[1:])


class OnlyPads(DualARTransformer):
    def step_fast(self, x, cache):
        logits = torch.zeros_like(super().step_fast(x, cache))
        logits[:, 0] = 100
        return logits


def test_pads_that_are_spoken_are_replaced_beside_marks(model, prompt):
    rigged = OnlyPads(model.config, SEMANTIC_ID)
    rigged.load_state_dict(model.state_dict())
    reply = Reply(rigged, prompt, 2, SamplingConfig(seed=1), forced=(8, None, 6), marks=MARKS)
    (frames,) = finish(EagerEngine(rigged), reply)
    assert frames[1:].T.tolist() == [[0] * 8, [1] * 8, [0] * 8, [1] * 8]


def test_replies_that_join_and_leave_equal_each_alone_at_marks_too(model, prompt):
    asked = [
        (prompt, 8, SamplingConfig(seed=1, **WILD)),
        (prompt[:, 5:], 3, SamplingConfig(seed=2, **WILD)),
        (prompt[:, :1], 6, SamplingConfig(seed=3, repetition_penalty=1.9, **WILD)),
    ]
    replies = [Reply(model, *ask, marks=MANY) for ask in asked]
    made, mixed, step = [[], [], []], 0, 0
    while not all(reply.ended for reply in replies):
        joined = [row for row in range(3) if row <= step and not replies[row].ended]
        frames = next_frames(EagerEngine(model), [replies[row] for row in joined])
        for row, frame in zip(joined, frames, strict=True):
            made[row].append(frame)
        mixed += len({int(frame[0]) in MANY for frame in frames}) == 2
        step += 1
    assert mixed > 2, "one is at a mark while others speak"
    for frames, ask in zip(made, asked, strict=True):
        (alone,) = finish(EagerEngine(model), Reply(model, *ask, marks=MANY))
        assert torch.equal(torch.stack(frames, dim=1), alone)


def only_marks(model):
    """A model that writes marks without end."""
    rigged = DualARTransformer(model.config, SEMANTIC_ID)
    rigged.load_state_dict(model.state_dict())

    def text_logits(hidden):
        logits = torch.zeros(*hidden.shape[:-1], model.config.vocab_size)
        logits[..., 6] = 100
        return logits

    rigged.text_logits = text_logits
    return rigged


def test_a_reply_that_is_only_written_is_spoken_after_all(model, prompt):
    marking = only_marks(model)
    reply = Reply(marking, prompt, 3, SamplingConfig(seed=1), marks=MARKS)
    (frames,) = finish(EagerEngine(marking), reply)
    assert frames[0].tolist() == [6] * MAX_MARKS + [SEMANTIC_ID] * 3
    assert reply.cache.max_len == prompt.shape[1] + 3 + MAX_MARKS


@pytest.mark.parametrize(
    ("characters", "forced", "words"),
    [
        ({41}, (8,), [41, SEMANTIC_ID, 41, 41]),
        ({41}, (8, SEMANTIC_ID), [SEMANTIC_ID, 41, 41, 41]),
        ({41}, (8, 41, 41), [41, 41, 41, 41]),
        ({42}, (8,), [41, 41, 41, 41]),
        ((), (8,), [41, 41, 41, 41]),
    ],
)
def test_the_first_two_frames_begin_one_character(model, prompt, characters, forced, words):
    leaning = torch.zeros(model.config.vocab_size)
    leaning[41] = 1e9
    reply = Reply(
        model,
        prompt,
        4,
        SamplingConfig(seed=1),
        forced=forced,
        marks=MARKS,
        leanings=dict.fromkeys(range(5), leaning),
        characters=characters,
    )
    frames = finish(EagerEngine(model), reply)[0]
    assert frames[0].tolist() == [8, *words]


def test_marks_come_no_more_often_when_there_is_speech_between(model, prompt):
    marking = only_marks(model)
    forced = [None, 42] * 70
    reply = Reply(marking, prompt, 80, SamplingConfig(seed=1), forced=forced, marks=MARKS)
    (frames,) = finish(EagerEngine(marking), reply)
    assert (frames[0] == 6).sum() == MAX_MARKS and reply.num_spoken == 80
    assert frames[0, 2 * MAX_MARKS :].tolist()[:3] == [SEMANTIC_ID, 42, SEMANTIC_ID]


def test_an_end_amid_marks(model, prompt):
    engine = Counting(model)
    reply = Reply(model, prompt, 3, SamplingConfig(seed=1), 42, forced=(8, 42), marks=MARKS)
    (frames,) = finish(engine, reply)
    assert torch.equal(frames, columns_of([8])) and reply.ended
    assert engine.num_rows == reply.num_spoken == 0
    assert reply.cache.length == prompt.shape[1] + 1


@pytest.mark.parametrize("num_before", [0, 1, 2, 3])
def test_a_step_that_failed_is_as_if_it_had_not_been(model, prompt, num_before):
    engine = EagerEngine(model)
    given = (model, prompt, 3, SamplingConfig(seed=1, **WILD))
    reply, other = (Reply(*given, forced=(8, None, 6), marks=MARKS) for _ in range(2))
    for _ in range(num_before):
        next_frames(engine, [reply])
    restore = reply.snapshot()
    next_frames(engine, [reply])
    restore()
    assert len(reply.columns) == len(reply.frames) == num_before
    (expected,), (found,) = finish(engine, other), finish(engine, reply)
    assert torch.equal(found, expected[:, num_before:])
    assert torch.equal(reply.window, other.window)


def test_room_is_kept_for_marks(model, prompt):
    room = model.config.max_seq_len - prompt.shape[1]
    sampling = SamplingConfig()
    Reply(model, prompt, room, sampling)
    Reply(model, prompt, room - MAX_MARKS, sampling, marks=MARKS)
    with pytest.raises(ValueError, match=f"{MAX_MARKS} for marks and max_new_tokens"):
        Reply(model, prompt, room - MAX_MARKS + 1, sampling, marks=MARKS)
    cache = model.new_cache(prompt.shape[1] + MAX_MARKS)
    with pytest.raises(ValueError, match="for marks"):
        Reply(model, prompt, 1, sampling, cache=cache, marks=MARKS)


def test_marks_that_cannot_be_are_refused(model, prompt):
    with pytest.raises(ValueError, match=r"marks reach.*300.*0 to 299"):
        Reply(model, prompt, 2, SamplingConfig(), marks={300})
    with pytest.raises(ValueError, match=f"{MAX_MARKS + 1} of the forced.*at most {MAX_MARKS}"):
        Reply(model, prompt, 2, SamplingConfig(), forced=[8] * (MAX_MARKS + 1), marks=MARKS)


class Watched(DualARTransformer):
    """Says the given text tokens, a row of them a step, and keeps what it is given and draws."""

    def __init__(self, model, texts):
        super().__init__(model.config, SEMANTIC_ID)
        self.load_state_dict(model.state_dict())
        self.texts = iter(texts)
        self.grids, self.heard, self.drawn = [], [], []

    def forward_hidden(self, grid, caches=None):
        self.grids.append(grid.clone())
        self.hidden = super().forward_hidden(grid, caches)
        return self.hidden

    def text_logits(self, hidden):
        logits = torch.zeros(len(hidden), self.config.vocab_size)
        logits[range(len(hidden)), next(self.texts)] = 100
        logits[:, END_ID] = 200
        return logits

    def forward_fast(self, hidden, codes):
        rows = [self.hidden[:, -1].tolist().index(row) for row in hidden.tolist()]
        logits = super().forward_fast(hidden, codes)
        self.heard.append((rows, codes.tolist()))
        self.drawn.append(logits.argmax(-1).tolist())
        return logits


def test_what_a_model_says_to_be_rounded_has_marks_without_codes(model, prompt):
    grid = torch.stack([prompt, prompt.roll(1, dims=1)])
    grid[0, 1:, -1], grid[1, 1:, -1] = torch.arange(1, 9), torch.arange(11, 19)
    texts = [(7, SEMANTIC_ID), (8, 7), (SEMANTIC_ID, 6), (9, SEMANTIC_ID), (SEMANTIC_ID, 9)]
    watched = Watched(model, texts).eval()
    marks = torch.tensor(sorted(MARKS))
    generator = torch.Generator().manual_seed(0)
    _speak(watched, lambda logits, *_: logits.argmax(-1), grid, 5, END_ID, marks, generator)
    assert [rows for rows, _ in watched.heard] == [[1], [0], [0, 1], [0, 1]]
    ((second,), (first,), (first_next, second_next), _) = watched.drawn
    before = [[codes[:-1] for codes in drawn] for drawn in watched.drawn[:3]]
    assert [codes for _, codes in watched.heard] == [
        [list(range(11, 18))],
        [list(range(1, 8))],
        [*before[1], *before[0]],  # of the frames before the marks
        before[2],
    ]
    pads = [0] * 8
    assert [step[..., 0].tolist() for step in watched.grids[1:]] == [
        [[7, *pads], [SEMANTIC_ID, *second]],
        [[8, *pads], [7, *pads]],
        [[SEMANTIC_ID, *first], [6, *pads]],
        [[9, *first_next], [SEMANTIC_ID, *second_next]],
    ]
