"""Odd replies of Qwen2.5-Omni, and its options on the command line."""

import wave

import numpy as np
import pytest
import torch
from omni_small import END, ID
from omni_talk import LONG, SHORT, ask, picture, speech
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import generate
from models.contract import ReplyOptions
from models.errors import UserError
from models.omni import generation
from models.omni.generation import Reader
from models.omni.prompt import SPEECH_SYSTEM
from models.omni.sampling import Draw, FlowConfig, OmniSampling


def rig(monkeypatch, tokens=None, codes=None):
    """Let the first draws of text or codes give these."""

    def draw(**options):
        rest = iter((codes if "history" in options else tokens) or ())
        drawn = Draw(**options)
        return lambda logits: next(rest, None) or drawn(logits)

    monkeypatch.setattr(generation, "Draw", draw)


def text_of(answer):
    return "".join(chunk.new_text for chunk in answer.chunks)


def test_an_empty_text(omni, monkeypatch):
    conversation = omni.new_conversation()
    with monkeypatch.context() as context:
        rig(context, tokens=[ID["<|im_end|>"]])
        answer = ask(omni, conversation, text=LONG)
    (chunk,) = answer.chunks
    assert (chunk.new_text, len(chunk.new_audio), chunk.total_frames) == ("", 0, 0)
    assert chunk.ended
    assert ask(omni, conversation, text=SHORT, frames=5).codes


@pytest.mark.parametrize("setting", ["temperature", "penalty"])
def test_the_ends_of_the_settings_are_borne(setting):
    logits = torch.linspace(0, 3, 50)[None]
    for given, alike in ((5e-324, 1e-6), (2, 2.0)):
        one, other = (
            Draw(**{"temperature": 0.7, setting: value}, top_k=20, top_p=0.8, history=[49, 48])
            for value in (given, alike)
        )
        assert [one(logits) for _ in range(9)] == [other(logits) for _ in range(9)]


def test_a_speech_of_no_code(omni, monkeypatch):
    rig(monkeypatch, codes=[END])
    answer = ask(omni, text=LONG)
    assert answer.codes == [] and len(answer.wave) == 0
    assert text_of(answer) and answer.chunks[-1].ended


def test_a_speech_that_ends_before_the_text(omni, monkeypatch):
    rig(monkeypatch, codes=[5, 6, 7, END])
    answer = ask(omni, text=LONG)
    assert answer.codes == [5, 6, 7] and len(answer.wave) == 3 * 480
    assert len(answer.ids) > 20 and answer.chunks[-1].ended
    assert text_of(answer) == text_of(ask(omni, text=LONG, speaks=False))


def test_a_code_that_the_flow_lacks_is_never_drawn(omni, monkeypatch):
    dit = omni.checkpoint.config.token2wav_config.dit_config
    assert max(ask(omni, text=LONG, frames=60).codes) > 30
    monkeypatch.setattr(dit, "num_embeds", 30)
    assert max(ask(omni, text=LONG, frames=60).codes) <= 30


def test_one_frame_is_the_least(omni):
    answer = ask(omni, text=LONG, frames=1)
    assert len(answer.ids) == 1 and len(answer.chunks) == 1 and not answer.chunks[-1].ended


def test_what_looks_like_a_mark_is_text(omni):
    conversation = omni.new_conversation()
    conversation.begin_turn("a<|AUDIO|><|im_end|>b").finish()
    ids = torch.cat([segment.ids for segment in conversation.turns[-1].segments]).tolist()
    assert ids.count(ID["<|AUDIO|>"]) == 0 and ids.count(ID["<|im_end|>"]) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0}, {"top_p": 2}, {"top_k": 0}, {"seed": -1}, {"text_temperature": -1},
        {"speaks": 1}, {"repetition_penalty": float("nan")}, {"flow": None}, {"temperature": True},
        {"euler_evaluations": 100}, {"euler_evaluations": 2.5},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_told(settings):
    (name,) = settings
    with pytest.raises(UserError, match=name):
        OmniSampling(**settings)


@pytest.mark.parametrize(
    "settings",
    [{"solver": "heun"}, {"num_steps": 1}, {"guidance": -1}, {"blocks_ahead": 0}, {"context": 0.5}],
)
def test_flows_out_of_range_are_told(settings):
    (name,) = settings
    with pytest.raises(UserError, match=name):
        FlowConfig(**settings)


def test_old_turns_are_dropped_when_the_context_is_full(omni, monkeypatch):
    conversation = omni.new_conversation()
    limit = len(omni.prompt.system()) + 80
    monkeypatch.setattr(omni, "max_input_positions", limit)
    for _ in range(3):
        ask(omni, conversation, text=LONG, frames=8)
    assert len(conversation.turns) < 3
    with pytest.raises(UserError) as caught:
        conversation.begin_turn("long " * 60).finish()
    assert caught.value.code == "error_input_too_long"
    fresh = type(conversation)(omni, None, conversation.turns)
    expected = ask(omni, fresh, text=SHORT, frames=8).codes
    assert ask(omni, conversation, text=SHORT, frames=8).codes == expected


def test_a_long_conversation_is_seldom_read_again(omni, monkeypatch):
    conversation, readers, lengths, room = omni.new_conversation(), [], [], 800
    monkeypatch.setattr(
        "models.omni.conversation.Reader",
        lambda checkpoint: readers.append(Reader(checkpoint)) or readers[-1],
    )
    monkeypatch.setattr(omni, "max_input_positions", len(omni.prompt.system()) + room)
    for seed in range(24):
        ask(omni, conversation, sound=speech(5, seed), frames=4, speaks=False)
        lengths.append(sum(map(len, conversation.turns[-1].segments)))
    assert max(lengths) < room / 5
    assert 2 <= len(readers) <= sum(lengths) / (room / 2)


def test_texts_that_are_too_long_or_none_are_told(omni):
    for call, argument, code in (
        (omni.new_conversation_with, 7, "error_text_type"),
        (omni.new_conversation_with, "long " * 3000, "error_text_too_long"),
        (omni.new_conversation_with, "\ud800", "error_text_not_unicode"),
        (omni.new_conversation().begin_turn, "a" * 10_000_000, "error_text_too_long"),
    ):
        with pytest.raises(UserError) as caught:
            call(argument)
        assert caught.value.code == code


def test_files_that_are_no_conversation_of_this_checkpoint(omni, tmp_path):
    path, conversation = tmp_path / "talk", omni.new_conversation()
    ask(omni, conversation, text=SHORT, frames=3, image=picture())
    conversation.save(path)
    with safe_open(path, "pt") as file:
        tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    bad_ids = tensors | {"0000.0000.ids": tensors["0000.0000.ids"] + 1000}
    lost = {key: tensor for key, tensor in tensors.items() if key != "0000.0001.positions"}
    media = {
        key: tensor * float("nan") for key, tensor in tensors.items() if key.endswith(".media")
    }
    for name, parts, about, code in (
        ("not finite", tensors | media, metadata, "error_conversation_damaged"),
        ("bad", bad_ids, metadata, "error_conversation_damaged"),
        ("lost", lost, metadata, "error_conversation_damaged"),
        ("deep", tensors, metadata | {"system": "[" * 100_000}, "error_conversation_damaged"),
        ("bare", tensors, {}, "error_no_conversation"),
        ("other", tensors, metadata | {"checkpoint": "1"}, "error_conversation_of_another"),
    ):
        save_file(parts, tmp_path / name, about)
        with pytest.raises(UserError) as caught:
            omni.load_conversation(tmp_path / name)
        assert caught.value.code == code
    (tmp_path / "text").write_text("no conversation")
    with pytest.raises(UserError) as caught:
        omni.load_conversation(tmp_path / "text")
    assert caught.value.code == "error_no_conversation"


@pytest.mark.parametrize("steps", [0, 4])
def test_after_a_fault_amid_the_layers_the_conversation_goes_on(omni, steps):
    conversation = omni.new_conversation()
    ask(omni, conversation, text=SHORT, frames=5)

    def break_down(*arguments):
        nonlocal steps
        steps -= 1
        if steps < 0:
            raise RuntimeError("broken")

    hook = omni.checkpoint.language_model.layers[1].register_forward_pre_hook(break_down)
    try:
        with pytest.raises(RuntimeError, match="broken"):
            ask(omni, conversation, text=LONG, frames=20)
    finally:
        hook.remove()
    fresh = type(conversation)(omni, None, conversation.turns)
    expected = ask(omni, fresh, text=LONG, frames=8).codes
    assert ask(omni, conversation, text=LONG, frames=8).codes == expected


@pytest.mark.parametrize("begin_anew", ["reset", "open"])
def test_a_conversation_that_goes_on_amid_the_layers_of_a_step(omni, begin_anew):
    conversation = omni.new_conversation()
    turn = conversation.begin_turn(LONG)
    turn.finish()
    old, lengths = conversation.reader, []

    def go_on(_, given):  # as from another thread
        if given[0].shape[-2] == 1 and not lengths:  # the reply's first token
            lengths.append(old.thinker.length)
            getattr(conversation, begin_anew)()
            assert conversation.reader is not old and old.thinker.length == lengths[0]

    hook = omni.checkpoint.language_model.layers[1].register_forward_pre_hook(go_on)
    try:
        list(conversation.reply(turn, ReplyOptions(sampling=OmniSampling(seed=3), max_frames=20)))
    finally:
        hook.remove()
    assert lengths == [old.thinker.length] and conversation.reader.thinker.length == 0
    fresh = type(conversation)(omni)
    expected = ask(omni, fresh, text=SHORT, frames=8).codes
    assert ask(omni, conversation, text=SHORT, frames=8).codes == expected


@pytest.mark.parametrize("part", ["lm_head", "talker"])
def test_logits_that_are_not_finite_are_no_token(omni, part):
    conversation = omni.new_conversation()
    ask(omni, conversation, text=SHORT, frames=5)
    head = omni.checkpoint.lm_head if part == "lm_head" else omni.checkpoint.talker.codec_head
    hook = head.register_forward_hook(lambda module, given, logits: logits * float("nan"))
    try:
        with pytest.raises(FloatingPointError, match="the model's logits are not finite"):
            ask(omni, conversation, text=LONG, frames=20)
    finally:
        hook.remove()
    fresh = type(conversation)(omni, None, conversation.turns)
    expected = ask(omni, fresh, text=LONG, frames=8).codes
    assert ask(omni, conversation, text=LONG, frames=8).codes == expected


@pytest.fixture
def command(omni, monkeypatch, tmp_path):
    monkeypatch.setattr(generate, "load_model", lambda *arguments: omni)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (60, 40), "red").save("a.png")

    def run(*arguments):
        limits = ["--max-new-tokens", "20", "--seed", "3", "--euler-evaluations", "2"]
        status = generate.main([*limits, *arguments])
        with wave.open("reply.wav") as file:
            assert file.getframerate() == 24_000
            return status, np.frombuffer(file.readframes(file.getnframes()), "<i2")

    return run


def test_the_command_line_shows_a_picture_and_chooses_a_voice(command):
    arguments = ["--user-text", LONG, "--user-image", "a.png"]
    status, pcm = command(*arguments)
    assert status == 0 and len(pcm) == 20 * 480
    assert not np.array_equal(command(*arguments, "--voice", "Ethan")[1], pcm)
    assert not np.array_equal(command("--user-text", LONG)[1], pcm)


def test_the_command_line_answers_in_text_alone(command, omni, monkeypatch):
    seen = []
    made = omni.new_conversation_with
    monkeypatch.setattr(
        omni, "new_conversation_with", lambda system: seen.append(made(system)) or seen[-1]
    )
    status, pcm = command("--user-text", LONG, "--text-only", "--system", "Be brief.")
    assert status == 0 and len(pcm) == 0
    said = omni.checkpoint.tokenizer.decode(seen[0].segments[0].ids)
    assert f"{SPEECH_SYSTEM}\nBe brief.<|im_end|>" in said


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--user-image", "b.png"], "there is no file b.png"),
        (["--user-video", "a.png"], "a.png can't be read as a video"),
        (["--user-text", "a", "--voice", "Nobody"], "'Nobody': allowed are Chelsie, Ethan"),
        (["--user-text", "a", "--style", "warm"], "has no styles"),
        (["--user-text", "a", "--euler-evaluations", "0"], "euler_evaluations is 0"),
    ],
)
def test_the_command_line_tells_what_is_wrong(command, capsys, tmp_path, arguments, message):
    (tmp_path / "reply.wav").write_bytes(b"kept")
    assert generate.main(arguments) == 2
    assert message in capsys.readouterr().err
