"""Speech while it is spoken: the published features in pieces, each block heard once."""

import random

import pytest
import torch
from omni_talk import RATE, ask, features, speech

from models.contract import ReplyOptions
from models.errors import UserError
from models.omni import listen, user_turn
from models.omni.listen import MelSettings, MelStream, encode_sound


@pytest.fixture(scope="module")
def settings(omni) -> MelSettings:
    return omni.mel_settings


@pytest.mark.parametrize("seconds", [0.05, 1.3, 2.0, 4.53])
@pytest.mark.parametrize("most", [100, 3000, 100_000])
def test_mel_in_pieces_is_the_published_one(settings, seconds, most):
    wave, generator = speech(seconds), random.Random(int(most))
    made = features(wave)
    expected = made["input_features"][0][:, made["feature_attention_mask"][0].bool()]
    loudest = float(expected.max()) * 4 - 4
    stream, blocks = MelStream(settings, loudest), []
    while len(wave):
        size = generator.randint(1, most)
        blocks += stream.push(wave[:size])
        wave = wave[size:]
    blocks += stream.push(wave, last=True)
    assert all(block.shape[1] == 200 for block in blocks[:-1])
    torch.testing.assert_close(torch.cat(blocks, dim=1), expected, rtol=0, atol=1e-6)


def test_the_loudest_so_far_is_the_floor(settings):
    quiet, loud = speech(2.5) / 1000, speech(2.5, seed=1)
    stream = MelStream(settings)
    first, *_ = stream.push(torch.cat([quiet, loud]), last=True)
    alone, *_ = MelStream(settings).push(quiet, last=True)
    assert first.min() >= first.max() - 2 and first.min() > alone.min()


def test_blocks_one_by_one_are_the_whole(omni, settings):
    (*blocks,) = MelStream(settings).push(speech(5.3), last=True)
    mel = torch.cat(blocks, dim=1)
    with torch.no_grad():
        lengths = torch.tensor([mel.shape[1]])
        whole = omni.checkpoint.audio_tower(mel, feature_lens=lengths).last_hidden_state
    parts = torch.cat([encode_sound(omni.checkpoint, block) for block in blocks])
    torch.testing.assert_close(parts, whole)


def test_the_tower_hears_each_block_once_while_the_user_speaks(omni, monkeypatch):
    tower, heard = type(omni.checkpoint.audio_tower), []
    forward = tower.forward

    def counted(self, mel, **options):
        heard.append(mel.shape[1])
        return forward(self, mel, **options)

    monkeypatch.setattr(tower, "forward", counted)
    conversation = omni.new_conversation()
    turn = conversation.begin_turn(sample_rate=RATE)
    lengths = []
    for piece in speech(5.0).split(RATE // 4):
        turn.push(piece)
        lengths.append((len(heard), conversation.reader.thinker.length))
    assert [num for num, _ in lengths][7:10] == [0, 1, 1]
    assert lengths[9][1] - lengths[7][1] == 50
    turn.finish()
    list(conversation.reply(turn, ReplyOptions(max_frames=2)))
    ask(omni, conversation, text="abc", frames=2)
    assert heard == [200, 200, 100]


def test_speech_of_another_rate_and_a_very_short_one(omni):
    for samples, rate in ((speech(0.5), 8000), (speech(0.001), RATE)):
        turn = omni.new_conversation().begin_turn(sample_rate=rate)
        turn.push(samples)
        turn.finish()
        sound = turn.turn.segments[2]
        assert sound.media is not None and len(sound) == round(max(0.1, len(samples) / rate) * 25)


def test_speech_that_is_too_long_is_told(omni, monkeypatch):
    conversation = omni.new_conversation()
    turn = conversation.begin_turn("abc", RATE)
    assert 299 < turn.seconds_left <= 300
    monkeypatch.setattr(user_turn, "MAX_SECONDS", 1.0)
    turn.push(speech(0.9))
    with pytest.raises(UserError) as caught:
        turn.push(speech(0.9))
    assert caught.value.code == "error_input_too_long"
    assert conversation.open_turn is None and conversation.turns == []
    assert turn.seconds_left == 0
    assert listen.MAX_SECONDS == 300
