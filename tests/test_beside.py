"""Sound that is decoded beside the next frames: the same reply, whatever it waits for."""

import os
import signal
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from threading import Barrier, Event, Thread

import numpy as np
import pytest
import torch
from conversing import SEEDED, answer, assert_sound
from small import marking, rigged, small_model

from generate import generate_long
from models.transformer.native import (
    at_work,
    num_threads,
    share_of_threads,
    without_torch_threads,
    work_beside,
)
from models.westlake import speech_model
from models.westlake.speech import SpeechDecoder, Transcript, codec_codes

OPTIONS = {"sampling": SEEDED, "max_new_tokens": 20, "chunk_frames": 4}


class Late:
    """Whatever it is to do, it does once somebody waits for it."""

    def submit(self, work):
        late = Future()
        result = late.result

        def finish():
            if not late.done():
                late.set_result(work())
            return result()

        late.result = finish
        return late


@pytest.fixture(params=[ThreadPoolExecutor, Late])
def model(request, small_codec):
    model = small_model(small_codec)
    model.decoders = request.param()
    return model


@pytest.fixture
def plain(small_codec):
    model = small_model(small_codec)
    assert model.decoders is None, "PyTorch's threads are not shared out"
    return model


def chunks_of(model, **options):
    return list(generate_long(model, text="你好", **OPTIONS | options))


def test_its_chunks_are_those_of_sound_that_is_made_at_once(model, plain):
    found, expected = chunks_of(model), chunks_of(plain)
    assert len(found) == len(expected) > 4
    for chunk, other in zip(found, expected):
        assert np.array_equal(chunk.new_audio, other.new_audio)
        assert (chunk.new_text, chunk.total_frames) == (other.new_text, other.total_frames)
        assert np.array_equal(chunk.new_frames.codes, other.new_frames.codes)
    assert found[-1].ended == expected[-1].ended


def test_the_first_chunk_waits_for_no_frame_behind_it(model):
    made = []

    def forward_hidden(grid, caches):
        made.append(grid.shape[2])
        return model.checkpoint.model.forward_hidden(grid, caches)

    other = rigged(model, forward_hidden=forward_hidden)
    other.decoders = model.decoders
    reply = generate_long(other, text="你好", first_chunk_frames=2, **OPTIONS)
    assert next(reply).total_frames == len(made) == 2
    reply.close()


@pytest.mark.parametrize("is_closed", [True, False])
def test_what_was_made_ahead_of_a_reply_that_is_left_is_not_said(model, is_closed):
    conversation, stop = model.new_conversation(), Event()
    reply = generate_long(model, text="你好", conversation=conversation, stop=stop, **OPTIONS)
    out = [next(reply), next(reply), next(reply)]
    stop.set()
    if is_closed:
        reply.close()
    else:
        out += reply
        assert not out[-1].ended
    turn = conversation.turns[-1]
    num_said = turn.columns.shape[1] - turn.prompt_length - 1  # without the end token
    assert num_said == out[2].total_frames == out[-1].total_frames
    answer(conversation, text="再见")
    assert_sound(conversation)


@pytest.mark.parametrize("place", ["frame", "sound"])
@pytest.mark.parametrize("is_marking", [False, True])
def test_a_stop_at_any_moment_keeps_what_is_heard(model, monkeypatch, tmp_path, place, is_marking):
    """Amid each frame, and amid each chunk's sound: all that is kept is of the same frames."""
    speaker = marking(model) if is_marking else model
    plain, decode = speaker.checkpoint.model, speaker.checkpoint.codec.decode_chunk

    def stopped_at(number):
        stop, calls = Event(), dict.fromkeys(("frame", "sound"), 0)

        def mark(what):
            calls[what] += 1
            if (what, calls[what]) == (place, number):
                stop.set()

        def forward_hidden(grid, caches):
            mark("frame")
            return plain.forward_hidden(grid, caches)

        def decode_chunk(codes, state):
            mark("sound")
            return decode(codes, state)

        rig = rigged(speaker, forward_hidden=forward_hidden)
        rig.decoders = model.decoders
        conversation = rig.new_conversation()
        with monkeypatch.context() as patch:
            patch.setattr(speaker.checkpoint.codec, "decode_chunk", decode_chunk)
            out = chunks_of(rig, conversation=conversation, stop=stop, max_new_tokens=12)
        conversation.model = speaker
        assert_kept(conversation, out, tmp_path / "talk")
        return stop.is_set()

    assert next(number for number in count(1) if not stopped_at(number)) > 4


def assert_kept(conversation, chunks, path):
    """Columns, codes, text, sound and the saved conversation are of what was heard."""
    model, turn = conversation.model, conversation.turns[-1]
    said = turn.columns[:, turn.prompt_length : -1]
    text, tokens = Transcript(model.checkpoint), said[0].tolist()
    for token in tokens:
        text.add(token)
    spoken = said[:, [token not in model.checkpoint.mark_ids for token in tokens]]
    assert chunks[-1].total_frames == spoken.shape[1]
    assert "".join(chunk.new_text for chunk in chunks) == text.text
    codes = np.concatenate([chunk.new_frames.codes for chunk in chunks], axis=1)
    assert np.array_equal(codes, codec_codes(said, model.checkpoint.codec.config.codebook_size))
    sound = SpeechDecoder(model.checkpoint).decode(list(spoken.T), True)
    heard = np.concatenate([chunk.new_audio for chunk in chunks])
    np.testing.assert_allclose(heard, sound, atol=1e-4)
    assert conversation.cache.length <= conversation.columns.shape[1] - 1
    conversation.save(path)
    restored = model.load_conversation(path)
    assert torch.equal(restored.columns, conversation.columns)
    np.testing.assert_allclose(
        *(answer(each, 3, text="再见") for each in (conversation, restored)), atol=1e-4
    )


def test_what_was_begun_before_a_fault_is_heard(model):
    steps = []

    def forward_hidden(grid, caches):
        steps.append(grid)
        if len(steps) == 9:
            raise RuntimeError("broken")
        return model.checkpoint.model.forward_hidden(grid, caches)

    faulty = rigged(model, forward_hidden=forward_hidden)
    faulty.decoders = model.decoders
    conversation, out = faulty.new_conversation(), []
    with pytest.raises(RuntimeError, match="broken"):
        out.extend(generate_long(faulty, text="你好", conversation=conversation, **OPTIONS))
    assert [chunk.total_frames for chunk in out] == [2, 6]
    conversation.model = model
    assert_sound(conversation)
    answer(conversation, text="再见")
    assert_sound(conversation)


def test_a_fault_of_the_codec_is_told(model, monkeypatch):
    decode, calls = model.checkpoint.codec.decode_chunk, []

    def decode_chunk(codes, state):
        calls.append(codes)
        if len(calls) == 3:
            raise RuntimeError("broken")
        return decode(codes, state)

    monkeypatch.setattr(model.checkpoint.codec, "decode_chunk", decode_chunk)
    conversation, heard = model.new_conversation(), 0
    with pytest.raises(RuntimeError, match="broken"):
        for chunk in generate_long(model, text="你好", conversation=conversation, **OPTIONS):
            heard = chunk.total_frames
    turn = conversation.turns[-1]
    assert turn.columns.shape[1] - turn.prompt_length - 1 == heard > 0
    answer(conversation, text="再见")
    assert_sound(conversation)


def shares(num_main, num_beside):
    """Of threads that are at work at the same time: what each has."""
    everyone = Barrier(num_main + num_beside)

    def compute(is_beside):
        if is_beside:
            work_beside()
        with at_work():
            everyone.wait()
            with share_of_threads() as share:
                everyone.wait()
                return share

    with ThreadPoolExecutor(num_main + num_beside) as pool:
        return list(pool.map(compute, [False] * num_main + [True] * num_beside))


def test_threads_are_shared_out_between_those_who_compute(set_threads):
    set_threads(4)
    assert shares(1, 0) == [4]
    assert shares(2, 0) == [2, 2]
    assert shares(1, 1) == [3, 1]
    assert shares(1, 2) == [2, 1, 1]
    assert shares(1, 5) == [1] * 6
    with share_of_threads() as again:
        assert again == 4


@pytest.mark.parametrize("is_beside", [True, False])
def test_who_comes_amid_a_call_of_several_threads_waits_for_its_end(set_threads, is_beside):
    """Were it to begin at once, those threads would lose a turn of the scheduler wherever they
    wait for each other: a step of the language model would last as long as the sound beside it."""
    set_threads(2)
    begun, inside, done = Event(), Event(), Event()

    def compute():
        if is_beside:
            work_beside()
        with at_work():
            begun.set()
            with share_of_threads() as share:
                inside.set()
                assert done.wait(60)
                return share

    with ThreadPoolExecutor(1) as pool, at_work():
        with share_of_threads() as alone:
            other = pool.submit(compute)
            assert begun.wait(60)
            assert not inside.wait(0.2)
        with share_of_threads() as together:
            assert inside.wait(60), "a call of one thread leaves it the other core"
            with ThreadPoolExecutor(1) as more:
                third = more.submit(lambda: list(shares_of_calls(2)))
                assert third.result(60) == [1, 1], "single threads wait for nobody"
        done.set()
        assert (alone, together, other.result(60)) == (2, 1, 1)


def shares_of_calls(number):
    """Of calls one after another, which nothing else is done between."""
    for _ in range(number):
        with share_of_threads() as share:
            yield share


def test_a_forked_process_speaks_as_well(plain, set_threads):
    """After a reply, whose threads it does not have; and amid another thread's work."""
    set_threads(4)
    plain.decoders = speech_model._new_decoders()
    expected = chunks_of(plain)[-1].total_frames
    inside, done = Event(), Event()

    def compute():
        with share_of_threads():
            inside.set()
            done.wait()

    other = Thread(target=compute)
    other.start()
    inside.wait()
    child = os.fork()
    if not child:
        signal.alarm(60)  # which ends a process that waits for ever
        torch.set_num_threads(1)  # PyTorch's own are not there either
        with share_of_threads() as share:
            os._exit(not (share == 1 and chunks_of(plain)[-1].total_frames == expected))
    done.set()
    other.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_who_does_without_pytorchs_threads_takes_them_from_nobody_else(set_threads, monkeypatch):
    set_threads(4)
    monkeypatch.delattr(torch, "set_num_threads")  # a thread that begins just then would keep it
    with ThreadPoolExecutor(1) as early, ThreadPoolExecutor(1) as late:
        assert early.submit(torch.get_num_threads).result() == 4
        with without_torch_threads():
            assert (torch.get_num_threads(), num_threads()) == (1, 4)
            assert early.submit(torch.get_num_threads).result() == 4
            assert late.submit(torch.get_num_threads).result() == 4
            with without_torch_threads():
                assert (torch.get_num_threads(), num_threads()) == (1, 4)
            assert (torch.get_num_threads(), num_threads()) == (1, 4), "as before within it"
        assert (torch.get_num_threads(), num_threads()) == (4, 4)
