"""The API's endpoints: what they take, what they answer, and what they say is wrong."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fake_model import FakeModel, OtherModel
from gradio_client import Client, handle_file
from page_client import API, Visitor, served

from models.errors import UserError
from models.load import load_model
from page.checks import reply_options
from page.limits import Limits

ROOT = Path(__file__).parent.parent
SPEECH = ROOT / "examples" / "2-job.wav"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(load_model("tiny"), Limits(reply_seconds=1)) as (_, address):
        yield address


@pytest.fixture(scope="module")
def client(url: str) -> Client:
    return Client(url, verbose=False)


def samples(wav: str) -> np.ndarray:
    return soundfile.read(wav, dtype="int16")[0]


def test_the_endpoints_and_their_arguments(client: Client):
    info = client.view_api(return_format="dict")["named_endpoints"]
    names = {
        path: [entry["parameter_name"] for entry in call["parameters"]]
        for path, call in info.items()
    }
    assert names == {
        "/speak": [
            "audio",
            "text",
            "style",
            "seed",
            "sampling",
            "conversation",
            "voice",
            "image",
            "video",
            "text_only",
            "system",
        ],
        "/encode": ["audio"],
        "/decode": ["codes"],
    }


def test_a_seed_a_style_and_sampling_repeat_a_reply(client: Client):
    given = {"text": "你好", "style": "calm", "sampling": {"temperature": 0.9}}
    replies = [client.predict(**given, seed=seed, api_name="/speak") for seed in (5, 5, 6)]
    np.testing.assert_array_equal(samples(replies[0][1]), samples(replies[1][1]))
    assert not np.array_equal(samples(replies[0][1]), samples(replies[2][1]))


def test_a_conversation_has_a_name_of_the_callers_own(url: str):
    """The same turns as in a conversation by hand; another caller's of that name is another."""
    texts = ("最近心情不好", "为什么呢")

    def talk(client: Client, name: str) -> list[bytes]:
        replies = [
            client.predict(text=text, seed=1, conversation=name, api_name="/speak")[1]
            for text in texts
        ]
        return [samples(reply).tobytes() for reply in replies]

    first, other = Client(url, verbose=False), Client(url, verbose=False)
    remembered = talk(first, "a")
    assert talk(other, "a") == talk(first, "b") == remembered
    alone = other.predict(text=texts[1], seed=1, api_name="/speak")[1]
    assert samples(alone).tobytes() != remembered[1]
    again = first.predict(text=texts[1], seed=1, conversation="a", api_name="/speak")[1]
    assert samples(again).tobytes() != remembered[1]  # by now it is the third turn


class Late(FakeModel):
    """Holds back the end of its replies, which comes without a frame."""

    def chunk(self, frame, max_frames, ended, sampling=None):
        chunk = super().chunk(frame, max_frames, ended, sampling)
        if not ended:
            return chunk
        return dataclasses.replace(chunk, new_text="完", total_frames=frame - 1)


def test_the_last_answer_has_all():
    model = Late()
    with served(model) as (_, address):
        client = Client(address, verbose=False)
        for num_frames in range(1, 9):
            model.num_frames = num_frames + 1
            for name in ("", str(num_frames)):
                job = client.submit(text="你好", conversation=name, api_name="/speak")
                text, wav = job.result(60)
                assert text == "好" * num_frames + "完"
                assert len(samples(wav)) == 800 * model.num_frames
                assert len(job.outputs()) <= 5  # whose sounds double


def test_codes_of_a_sound_and_the_sound_of_codes(client: Client):
    codes = client.predict(handle_file(SPEECH), api_name="/encode")
    assert len(codes) == 8 and len({len(row) for row in codes}) == 1
    wav = samples(client.predict(codes, api_name="/decode"))
    seconds = soundfile.info(SPEECH).duration
    assert len(wav) / 22050 == pytest.approx(seconds, abs=0.1) and np.abs(wav).max() > 500


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "neither speech nor text"),
        ({"text": "你好", "style": "loud"}, "unknown style 'loud': allowed are warm"),
        (
            {"text": "你好", "seed": -2},
            "the setting Seed is -2, allowed are -1 to 9007199254740991",
        ),
        ({"text": "你好", "sampling": {"top_k": 3}}, "no setting top_k"),
        (
            {"text": "你好", "sampling": {"temperature": 9}},
            "the setting Temperature is 9, allowed are 0.05 to 1.95",
        ),
        ({"text": "你好", "sampling": [1]}, "sampling came as list"),
        ({"text": "你好", "conversation": "a b"}, "the name of a conversation must be"),
    ],
)
def test_what_is_wrong_is_said(url: str, given: dict, told: str):
    values = {"audio": None, "text": "", "style": "", "seed": -1, "sampling": None}
    data = [*(values | {"conversation": ""} | given).values()]
    answer = Visitor(url).call(data)[1]
    assert "event: error" in answer and told in answer


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"style": "loud"}, "unknown style 'loud': this model has no styles, leave it out"),
        ({"style": "", "voice": "Eve"}, "unknown voice 'Eve': allowed are Ann, Bob"),
    ],
)
def test_what_a_model_does_not_have_is_said(given: dict, told: str):
    with pytest.raises(UserError, match=told):
        reply_options(OtherModel(), Limits(), seconds=5, sampling={}, **given)


@pytest.mark.parametrize(
    "codes", [5, "a", [], [[1, 2]], [[0] * 3] * 9, [[0.5]] * 8, [[1], [1, 2]], {}]
)
def test_what_are_no_codes(url: str, codes: object):
    assert "codes came as" in Visitor(url).call([codes], "decode")[1]


def test_codes_out_of_range_or_too_many(url: str):
    visitor = Visitor(url)
    assert "codes are from -1 to -1, allowed are 0 to" in visitor.call([[[-1]] * 8], "decode")[1]
    assert "allowed are up to 90 s" in visitor.call([[[0] * 3000] * 8], "decode")[1]


def snippets(language: str) -> list[str]:
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("### Over the network")[1]
    return re.findall(rf"```{language}\n(.*?)```", section.split("\n## ")[0], re.DOTALL)


def here(snippet: str, url: str) -> str:
    return snippet.replace("http://127.0.0.1:7860/", url)


def test_the_python_example_of_the_readme_runs(url: str, monkeypatch):
    monkeypatch.chdir(ROOT)
    (snippet,) = snippets("py")
    exec(compile(here(snippet, url), "README", "exec"), {})


def test_the_curl_example_of_the_readme_runs(url: str, tmp_path: Path):
    (snippet,) = snippets("bash")
    done = subprocess.run(
        ["bash", "-ec", here(snippet, url)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert "event: complete" in done.stdout
    assert API in snippet and (tmp_path / "reply.wav").read_bytes()[:4] == b"RIFF"
