"""Replies equal the published ones, alone or stepped together."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Thread

import pytest
import torch
from parity import ASSETS, SEMANTIC_ID, golden_dual_ar
from replying import COLD, meet
from safetensors.torch import load_file

from models.westlake.dual_ar import (
    DualARTransformer,
    EagerEngine,
    Reply,
    SamplingConfig,
    Stepper,
    make_frames,
    next_frames,
)

GREEDY = {"top_p": 1e-6, "temperature": 0.7}


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(ASSETS / "dual_ar_a.safetensors")


@pytest.fixture(scope="module")
def model() -> DualARTransformer:
    return golden_dual_ar()


@pytest.fixture(scope="module")
def prompt(golden) -> torch.Tensor:
    return golden["prompt"].long()


def frames_of(model, *replies):
    """All frames of some replies, stepped together, as they come."""
    made = make_frames(partial(next_frames, EagerEngine(model)), replies)
    return [frame for _, frame in made if frame is not None]


def reply_to(model, prompt, num_frames=6, end_id=None, *, cache=None, forced=(), **sampling):
    settings = SamplingConfig(**{"seed": 1, **sampling})
    reply = Reply(model, prompt, num_frames, settings, end_id, cache=cache, forced=forced)
    frames = frames_of(model, reply)
    return torch.stack([prompt.new_zeros(len(prompt)), *frames], dim=1)[:, 1:]


def without_pads(frames):
    """Each code 0 replaced by the codebook's code before."""
    frames = frames.clone()
    for t in range(1, frames.shape[1]):
        frames[:, t] = torch.where(frames[:, t] == 0, frames[:, t - 1], frames[:, t])
    return frames


@pytest.mark.parametrize("penalty", [1.0, 1.2])
def test_greedy_frames_equal_published(model, prompt, golden, penalty):
    frames = reply_to(model, prompt, 40, repetition_penalty=penalty, **GREEDY)
    expected = golden[f"greedy_penalty_{penalty}".replace(".", "_")].long()
    assert torch.equal(frames, without_pads(expected))


def test_greedy_frames_need_no_cache(model, prompt):
    frames = reply_to(model, prompt, 5, repetition_penalty=1.0, **GREEDY)
    grid = torch.cat([prompt, frames], dim=1)
    logits, hidden = model(grid[None])
    starts = range(prompt.shape[1] - 1, grid.shape[1] - 1)
    for column, start in zip(frames.T, starts, strict=True):
        assert column[0] == logits[0, start].argmax()
        fast = model.forward_fast(hidden[:, start], column[None, 1:-1])
        assert torch.equal(column[1:], fast[0].argmax(-1))


def test_replies_that_join_and_leave_equal_each_alone(model, prompt):
    asked = [
        (prompt, 8, SamplingConfig(seed=1)),
        (prompt[:, 5:], 3, SamplingConfig(seed=2, temperature=1.5, top_p=0.9)),
        (prompt[:, :1], 6, SamplingConfig(seed=3, repetition_penalty=1.9)),
    ]
    replies = [Reply(model, *ask) for ask in asked]
    made = [[], [], []]
    for step in range(8):
        joined = [row for row in range(3) if row <= step and not replies[row].ended]
        for row, frame in zip(
            joined, next_frames(EagerEngine(model), [replies[row] for row in joined]), strict=True
        ):
            made[row].append(frame)
    for frames, ask in zip(made, asked, strict=True):
        alone = frames_of(model, Reply(model, *ask))
        assert torch.equal(torch.stack(frames), torch.stack(alone))


def test_one_reply_ends_while_another_goes_on(model, prompt):
    other = prompt[:, 5:]
    free = reply_to(model, other, 6, seed=2)
    end_id = next(int(id) for id in free[0, 1:] if id != free[0, 0])
    end = free[0].tolist().index(end_id)
    ending = Reply(model, other, 6, SamplingConfig(seed=2), end_id)
    going = Reply(model, prompt, 6, SamplingConfig(seed=1))
    frames = [next_frames(EagerEngine(model), [ending, going]) for _ in range(end + 1)]
    assert frames[-1][0] is None and ending.ended and not going.ended
    frames += [next_frames(EagerEngine(model), [going]) for _ in range(5 - end)]
    assert torch.equal(torch.stack([step[-1] for step in frames], 1), reply_to(model, prompt, 6))


def test_threads_are_stepped_together_and_equal_each_alone(model, prompt, monkeypatch):
    stepper = Stepper(EagerEngine(model))
    sampling = [SamplingConfig(seed=seed, temperature=COLD) for seed in range(4)]
    asked = [(prompt[:, start:], 3 + start, sampling[start]) for start in range(4)]
    sizes = meet(monkeypatch, stepper, len(asked))

    def reply_in_thread(ask) -> list:
        reply, frames = Reply(model, *ask), []
        while not reply.ended:
            frames += stepper.next_frames([reply])
        stepper.leave(reply)
        return frames

    with ThreadPoolExecutor(len(asked)) as pool:
        made = list(pool.map(reply_in_thread, asked))
    assert sizes == [4, 4, 4, 3, 2, 1]
    for frames, ask in zip(made, asked, strict=True):
        assert torch.equal(torch.stack(frames), torch.stack(frames_of(model, Reply(model, *ask))))


def test_an_error_reaches_who_waits_and_holds_up_nobody(model, prompt):
    stepper = Stepper(EagerEngine(model))
    reply = Reply(model, prompt, 2, SamplingConfig(seed=1))
    reply.cache = None
    for _ in range(2):
        with pytest.raises(AttributeError):
            stepper.next_frames([reply])
    stepper.leave(reply)
    (frame,) = stepper.next_frames([Reply(model, prompt, 2, SamplingConfig(seed=1))])
    assert frame is not None


def test_the_seed_decides_and_replies_do_not_disturb_each_other(model, prompt):
    first = reply_to(model, prompt, temperature=1.5, top_p=0.95)
    settings = SamplingConfig(temperature=1.5, top_p=0.95, seed=1)
    pairs = [Reply(model, prompt, 6, settings) for _ in range(2)]
    for t in range(6):
        torch.manual_seed(t)
        (left,), (right,) = (next_frames(EagerEngine(model), [reply]) for reply in pairs)
        assert torch.equal(left, first[:, t]) and torch.equal(right, first[:, t])
    assert not torch.equal(first, reply_to(model, prompt, temperature=1.5, top_p=0.95, seed=2))
    fresh = [reply_to(model, prompt, temperature=1.5, top_p=0.95, seed=None) for _ in range(2)]
    assert not torch.equal(*fresh)


def test_end_token_ends_the_reply(model, prompt):
    settings = {"repetition_penalty": 1.2, **GREEDY}
    free = reply_to(model, prompt, 20, **settings)
    first, later = int(free[0, 0]), int(free[0, 18])
    assert first != later, "the golden reply says something else at frame 18"
    assert reply_to(model, prompt, 20, first, **settings).shape[1] == 0
    assert torch.equal(reply_to(model, prompt, 20, later, **settings), free[:, :18])


@pytest.mark.parametrize("stop", ["end token", "max_new_tokens"])
def test_a_conversation_goes_on_in_its_cache(model, prompt, stop):
    settings = {"repetition_penalty": 1.2, **GREEDY}
    end_id = int(reply_to(model, prompt, 20, **settings)[0, 18])
    num_frames = 20 if stop == "end token" else 4
    cache = model.new_cache()
    reply = reply_to(model, prompt, num_frames, end_id, cache=cache, **settings)
    unread = [] if stop == "end token" else [reply[:, -1:]]
    assert cache.length == prompt.shape[1] + reply.shape[1] - len(unread)
    turn = torch.cat([*unread, prompt[:, :7]], dim=1)
    continued = reply_to(model, turn, 3, cache=cache, **settings)
    whole = reply_to(model, torch.cat([prompt, reply, prompt[:, :7]], dim=1), 3, **settings)
    assert torch.equal(continued, whole)


def test_forced_text_takes_the_place_of_the_sampled(model, prompt):
    free = reply_to(model, prompt, 3)
    forced = reply_to(model, prompt, 3, int(free[0, 1]), forced=(None, 42))
    assert torch.equal(forced[:, 0], free[:, 0])
    assert forced[0, 1] == 42
    assert reply_to(model, prompt, 3, 42, forced=(None, 42)).shape[1] == 1


def test_a_leaning_sways_its_own_frame_of_its_own_reply(model, prompt):
    leaning = torch.zeros(model.config.vocab_size)
    leaning[42] = 1e4
    settings = SamplingConfig(seed=1)
    swayed = Reply(model, prompt, 3, settings, leanings={1: leaning})
    plain = Reply(model, prompt, 3, settings)
    frames_of(model, swayed, plain)
    free = reply_to(model, prompt, 3)
    assert [int(frame[0]) for frame in swayed.frames[:2]] == [int(free[0, 0]), 42]
    assert int(swayed.frames[2][0]) != 42
    assert torch.equal(torch.stack(plain.frames, dim=1), free)


def test_what_is_settled_is_the_likeliest(model, prompt):
    likeliest = int(reply_to(model, prompt, 1, **GREEDY)[0, 0])
    replies = [
        Reply(model, prompt, 2, SamplingConfig(seed=seed, temperature=1.9, top_p=1), settled={0})
        for seed in range(20)
    ]
    frames_of(model, *replies)
    words = [[int(frame[0]) for frame in reply.frames] for reply in replies]
    assert {first for first, _ in words} == {likeliest}
    assert len({second for _, second in words}) > 10
    assert len({tuple(reply.frames[0].tolist()) for reply in replies}) > 10  # codes are drawn


def test_of_two_that_are_as_likely_the_settled_is_always_one(model, prompt):
    leaning = torch.zeros(model.config.vocab_size)
    leaning[[41, 42]] = 1e9
    replies = [
        Reply(model, prompt, 1, SamplingConfig(seed=seed), leanings={0: leaning}, settled={0})
        for seed in range(20)
    ]
    frames_of(model, *replies)
    assert {int(reply.frames[0][0]) for reply in replies} == {41}


@pytest.mark.parametrize("setting", ["temperature", "repetition_penalty"])
def test_the_least_settings_are_borne(model, prompt, setting):
    least, small = (
        reply_to(model, prompt, 4, **{"temperature": 1e-5, setting: value})
        for value in (5e-324, 1e-6)
    )
    assert torch.equal(least, small)


def test_code_0_never_escapes(model, prompt):
    class OnlyPads(DualARTransformer):
        def step_fast(self, x, cache):
            logits = torch.zeros_like(super().step_fast(x, cache))
            logits[:, 0] = 100
            return logits

    rigged = OnlyPads(model.config, SEMANTIC_ID)
    rigged.load_state_dict(model.state_dict())
    assert torch.equal(reply_to(rigged, prompt, 4)[1:], torch.ones(8, 4, dtype=torch.long))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"prompt": torch.zeros(8, 3, dtype=torch.long)}, r"\[8, 3\].*\[9, T\]"),
        ({"prompt": torch.zeros(9, 0, dtype=torch.long)}, "T >= 1"),
        ({"prompt": torch.zeros(9, 3)}, "float32.*integers"),
        ({"prompt": torch.full((9, 3), 300)}, "text tokens.*300.*0 to 299"),
        ({"prompt": torch.full((9, 3), -1)}, "text tokens.*-1"),
        ({"prompt": torch.cat([torch.zeros(1, 3), torch.full((8, 3), 1024)]).long()}, "codes"),
        ({"max_new_tokens": 0}, "at least 1"),
        ({"max_new_tokens": 254}, "prompt of 3.*256"),
        ({"forced": (None, 300)}, "forced"),
    ],
)
def test_wrong_requests_are_refused_at_once(model, change, message):
    request = {"prompt": torch.zeros(9, 3, dtype=torch.long), "max_new_tokens": 2, **change}
    with pytest.raises(ValueError, match=message):
        Reply(model, sampling=SamplingConfig(), **request)


def test_half_precision(model, prompt):
    half = DualARTransformer(model.config, SEMANTIC_ID)
    half.load_state_dict(model.state_dict())
    frames = reply_to(half.bfloat16(), prompt, 2)
    assert frames[0].max() < model.config.vocab_size
    assert frames[1:].min() >= 1 and frames[1:].max() < model.config.codebook_size
    found, expected = half(prompt[None])[0].float(), model(prompt[None])[0]
    assert (found - expected).norm() / expected.norm() < 0.05


def test_frames_may_be_trained_on(model, prompt):
    model = DualARTransformer(model.config, SEMANTIC_ID)
    frames = reply_to(model, prompt, 3)
    model(frames[None])[0].sum().backward()


class Interrupted(BaseException):
    """No Exception, as KeyboardInterrupt is none."""


class Interrupting(EagerEngine):
    def read(self, grid, caches):
        raise Interrupted


def answers(ask, replies) -> list:
    """What each gets in a thread of its own; one that waits for ever is a failure, not a hang."""
    got = {}
    threads = [
        Thread(target=lambda reply=reply: got.update({reply: ask(reply)}), daemon=True)
        for reply in replies
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(got) == len(replies), "a thread still waits"
    return [got[reply] for reply in replies]


def test_who_is_in_an_interrupted_step_is_told_and_goes_on(model, prompt, monkeypatch):
    stepper = Stepper(EagerEngine(model))
    replies = [Reply(model, prompt, 4, SamplingConfig(seed=seed)) for seed in (1, 2)]

    def ask(reply):
        try:
            return stepper.next_frames([reply])
        except BaseException as error:
            return error

    answers(ask, replies)
    monkeypatch.setattr(Stepper, "GRACE_SECONDS", 20.0)  # now they are stepped together
    stepper.engine = Interrupting(model)
    errors = answers(ask, replies)
    assert {type(error) for error in errors} == {Interrupted, RuntimeError}
    stepper.engine = EagerEngine(model)
    for reply, error in zip(replies, errors):
        if isinstance(error, Interrupted):
            stepper.leave(reply)
        else:
            assert "interrupted" in str(error)
            going = reply
    ((frame,),) = answers(ask, [going])
    alone = Reply(model, prompt, 4, SamplingConfig(seed=going.sampling.seed))
    assert torch.equal(frame, frames_of(model, alone)[1])
