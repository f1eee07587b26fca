"""Assistants at /mcp: the protocol's own client lists the page's tools and calls them."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import soundfile
from fake_model import FakeModel
from gradio_client import Client as ApiClient
from jsonschema import Draft202012Validator
from mcp import MCPError
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult
from page_client import MCP, Visitor, served
from small_mini_omni import write_mini_omni
from test_entrance import basic

import app
from models.load import load_model
from models.mini_omni.speech_model import load_mini_omni
from page import server
from page.api import Api
from page.limits import Limits
from page.options import parse_arguments
from page.tools import tools_of
from strings import say

ROOT = Path(__file__).parent.parent
SPEECH = ROOT / "examples" / "2-job.wav"
LIMITS = Limits(reply_seconds=1, max_mcp_bytes=1_000_000, max_text_characters=100)


@pytest.fixture(scope="module")
def ours() -> Iterator[tuple[app.Page, str]]:
    with served(load_model("tiny"), LIMITS, made={"mcp": True}) as page:
        yield page


@pytest.fixture
def url(ours: tuple[app.Page, str]) -> str:
    return ours[1]


def connected(url: str, talk, mode: str = "auto", **headers: str) -> Any:
    """What a coroutine function gives for the protocol's client at a page."""

    async def run() -> Any:
        http = httpx2.AsyncClient(trust_env=False, timeout=60, headers=headers)
        transport = streamable_http_client(url.rstrip("/") + MCP, http_client=http)
        async with http, Client(transport, mode=mode) as client:
            return await talk(client)

    return asyncio.run(run())


def call(url: str, name: str, mode: str = "auto", **arguments: Any) -> CallToolResult:
    return connected(url, lambda client: client.call_tool(name, arguments), mode)


def refused(url: str, name: str, **arguments: Any) -> str:
    """What is told of a wrong call."""
    answer = call(url, name, **arguments)
    assert answer.is_error and answer.structured_content is None
    (content,) = answer.content
    return content.text


def sound_of(answer: CallToolResult) -> np.ndarray:
    """The samples of the sound that an answer ends with."""
    assert not answer.is_error, answer.content
    assert answer.content[-1].mime_type == "audio/wav"
    wav = io.BytesIO(base64.b64decode(answer.content[-1].data, validate=True))
    samples, rate = soundfile.read(wav, dtype="int16")
    assert rate == 22_050 and np.abs(samples).max() > 500
    return samples


def in_base64(content: bytes = SPEECH.read_bytes()) -> str:
    return base64.b64encode(content).decode()


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_the_tools_and_what_is_said_of_them(url: str, mode: str):
    async def listed(client: Client) -> list:
        return (await client.list_tools()).tools

    tools = {tool.name: tool for tool in connected(url, listed, mode)}
    arguments = {name: list(tool.input_schema["properties"]) for name, tool in tools.items()}
    assert arguments == {
        "speak": ["audio", "text", "style", "seed", "sampling", "conversation"],
        "encode": ["audio"],
        "decode": ["codes"],
    }
    for tool in tools.values():
        assert tool.description.endswith(".")
        for schema in filter(None, (tool.input_schema, tool.output_schema)):
            Draft202012Validator.check_schema(schema)
        for each in tool.input_schema["properties"].values():
            assert len(each["description"]) > 10
    speak = tools["speak"].input_schema["properties"]
    assert speak["style"]["enum"] == ["", *load_model("tiny").styles]
    assert speak["text"]["maxLength"] == 100
    assert speak["sampling"]["properties"]["temperature"]["minimum"] == 0.05
    assert "one of the model's" in speak["style"]["description"]
    assert tools["encode"].input_schema["required"] == ["audio"]


def test_tools_offer_what_the_model_can(tmp_path: Path):
    mini_omni = load_mini_omni(write_mini_omni(tmp_path), "cpu", "float32", None)
    assert "style" not in tools_of(mini_omni, Limits())["speak"].input_schema["properties"]
    assert list(tools_of(FakeModel(), Limits())) == ["speak"]

    class Seeing(FakeModel):
        accepts = frozenset({"audio", "text", "image", "video"})
        voices = ("Ann", "Bob")

        def new_conversation_with(self, system: str) -> None: ...

    speak = tools_of(Seeing(), Limits())["speak"].input_schema["properties"]
    assert {"image", "video", "voice", "system"} < speak.keys()
    assert "Later turns leave it out, or repeat it." in speak["system"]["description"]
    known = set(Api.speak.__annotations__)
    assert speak.keys() <= known


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_written_turn_is_answered_as_the_page_does(url: str, mode: str):
    given = {"text": "你好", "style": "calm", "seed": 5, "sampling": {"temperature": 0.9}}
    answer = call(url, "speak", mode, **given)
    text, wav = ApiClient(url, verbose=False).predict(**given, api_name="/speak")
    np.testing.assert_array_equal(sound_of(answer), soundfile.read(wav, dtype="int16")[0])
    facts = answer.structured_content
    assert json.loads(answer.content[0].text) == facts
    assert (facts["text"], facts["style"], facts["seed"]) == (text, "calm", 5)
    assert facts["whole"] is False  # the page's replies last a second here
    assert facts["emotion"] in load_model("tiny").emotions and facts["heard"] is None
    assert facts["seconds"] == pytest.approx(len(sound_of(answer)) / 22_050, abs=0.01)


@pytest.mark.parametrize("head", ["", "data:audio/wav;base64,"])
def test_a_spoken_turn_is_answered(url: str, head: str):
    facts = call(url, "speak", audio=head + in_base64(), seed=1).structured_content
    assert facts["text"] and "gong zuo" in facts["heard"]


def test_a_conversation_goes_on_by_its_handle(url: str):
    texts = ("最近心情不好", "为什么呢")

    async def talk(client: Client) -> list[CallToolResult]:
        first = await client.call_tool("speak", {"text": texts[0], "seed": 1})
        handle = first.structured_content["conversation"]
        second = {"text": texts[1], "seed": 1, "conversation": handle}
        return [first, await client.call_tool("speak", second)]

    turns = connected(url, talk)
    handles = {turn.structured_content["conversation"] for turn in turns}
    assert len(handles) == 1
    api = ApiClient(url, verbose=False)
    for turn, text in zip(turns, texts):
        wav = api.predict(text=text, seed=1, conversation="a", api_name="/speak")[1]
        np.testing.assert_array_equal(sound_of(turn), soundfile.read(wav, dtype="int16")[0])
    alone = call(url, "speak", text=texts[1], seed=1)
    assert alone.structured_content["conversation"] not in handles
    assert not np.array_equal(sound_of(alone), sound_of(turns[1]))


def test_nobody_goes_on_without_the_handle(url: str, ours: tuple[app.Page, str]):
    page, kept = ours[0], call(url, "speak", text="你好").structured_content["conversation"]
    visitor = Visitor(url)
    assert "event: complete" in visitor.call([None, "你好", "", 1, None, "mcp"])[1]
    (other,) = [name for name in page.sessions._sessions if not name.startswith("mcp")][-1:]
    for guess in ("mcp", kept[:-1], f"{kept}.mcp", other, other.partition(".")[0], "*", "../mcp"):
        told = refused(url, "speak", text="你好", conversation=guess)
        assert told.startswith(f"there is no conversation {guess},")
    assert "no conversation 5," in refused(url, "speak", text="你好", conversation=5)
    turns = [session.turns for session in page.sessions._sessions.values()]
    assert all(len(each) == 1 for each in turns if each[0].text == "你好")


def test_codes_of_a_sound_and_the_sound_of_codes(url: str):
    codes = call(url, "encode", audio=in_base64()).structured_content["codes"]
    assert len(codes) == 8 and len({len(row) for row in codes}) == 1
    seconds = len(sound_of(call(url, "decode", codes=codes))) / 22_050
    assert seconds == pytest.approx(soundfile.info(SPEECH).duration, abs=0.1)


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("speak", {}, "neither speech nor text"),
        ("speak", {"text": "你好", "style": "loud"}, "unknown style 'loud': allowed are warm"),
        ("speak", {"text": "你好", "seed": -2}, "the setting Seed is -2, allowed are -1 to"),
        ("speak", {"text": "你好", "seed": "5"}, "the setting Seed is '5', allowed are -1 to"),
        ("speak", {"text": "好" * 101}, "has 101 characters, allowed are up to 100"),
        ("speak", {"text": 5}, "text came as int"),
        ("speak", {"text": "你好", "sampling": {"top_k": 3}}, "no setting top_k"),
        ("speak", {"text": "你好", "sampling": [1]}, "sampling came as list"),
        (
            "speak",
            {"text": "你好", "voice": "Ann"},
            "speak takes no voice: allowed are audio, text",
        ),
        ("speak", {"audio": "/etc/passwd"}, "audio came as /etc/passwd, which is no file: give"),
        ("speak", {"audio": "data:audio/wav,abcd"}, "a data URL as data:audio/wav;base64,"),
        ("speak", {"audio": {"path": "/etc/passwd"}}, "which is no file"),
        ("speak", {"audio": in_base64(b"RIFF")}, "can't be read as sound"),
        ("speak", {"audio": in_base64(SPEECH.read_bytes()[:5000])}, "audio is cut off"),
        ("encode", {}, "encode needs audio, which is missing"),
        ("encode", {"audio": ""}, "encode needs audio, which is missing"),
        ("encode", {"audio": "你好"}, "which is no file"),
        ("decode", {"codes": None}, "decode needs codes, which is missing"),
        ("decode", {"codes": [[1], [1, 2]]}, "codes came as"),
        ("decode", {"codes": [[-1]] * 8}, "codes are from -1 to -1, allowed are 0 to"),
        ("decode", {"codes": [[0] * 3000] * 8}, "allowed are up to 90 s"),
    ],
)
def test_what_is_wrong_is_said(url: str, name: str, given: dict, told: str):
    message = refused(url, name, **given)
    assert told in message and "/tmp" not in message and "westlake-omni-" not in message


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("sing", {}, "there is no tool sing: allowed are speak, encode, decode"),
        ("speak", {"audio": "A" * 1_000_000}, "too large, allowed are up to 1000000 bytes"),
        ("decode", {"codes": [[0] * 5000] * 8}, r"has about \d+ values, allowed are up to 32768"),
    ],
)
@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_what_goes_no_further_is_told_by_the_protocol(
    url: str, name: str, given: dict, told: str, mode: str
):
    async def talk(client: Client) -> None:
        with pytest.raises(MCPError, match=told):
            await client.call_tool(name, given)

    connected(url, talk, mode)


def test_calls_leave_no_files_but_those_of_conversations(url: str, ours: tuple[app.Page, str]):
    files = ours[0].files
    codes = call(url, "encode", audio=in_base64()).structured_content["codes"]
    call(url, "decode", codes=codes)
    call(url, "speak", audio=in_base64())
    refused(url, "speak", audio=in_base64(), style="loud")
    owners = {entry.owner for entry in files._entries.values()}
    assert all(owner.endswith(".mcp") for owner in owners if owner.startswith("mcp"))


def test_a_login_and_the_hosts_hold():
    with served(FakeModel(), made={"mcp": True, "users": {"a": "b"}}) as (_, url):
        for headers in ({}, {"Authorization": basic("a", "wrong")}):
            status, told = Visitor(url).tool("speak", {"text": "你好"}, **headers)
            assert status == 401 and told["message"] == say("error_login", "en")
        told = pytest.RaisesExc(MCPError, match="asks for a name and a password")
        with pytest.RaisesGroup(told, flatten_subgroups=True):
            call(url, "speak", text="你好")
        talk = lambda client: client.call_tool("speak", {"text": "你好"})  # noqa: E731
        assert not connected(url, talk, Authorization=basic("a", "b")).is_error
    with served(FakeModel(), made={"mcp": True}) as (_, url):
        visitor = Visitor(url)
        assert visitor.tool("speak", {"text": "你好"}, Host="example.org")[0] == 421
        assert visitor.tool("speak", {"text": "你好"}, Origin="http://example.org")[0] == 403
        for method in ("GET", "DELETE", "PUT", "OPTIONS"):
            response = visitor.open(method, MCP)
            assert (response.status, response.headers["allow"]) == (405, "POST")


def test_it_is_off_unless_asked_for():
    with served(FakeModel()) as (_, url):
        assert Visitor(url).get(MCP)[0] == 404
        assert Visitor(url).tool("speak", {"text": "你好"})[0] == 404
    assert not parse_arguments([], {}).mcp
    assert parse_arguments(["--mcp"], {}).mcp and parse_arguments([], {"WESTLAKE_MCP": "1"}).mcp


def test_without_its_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setitem(sys.modules, "mcp", None)
    assert app.main(["--mcp"]) == 2
    (command,) = re.findall("pip install (.*)", capsys.readouterr().err)
    assert command == "-r requirements-mcp.txt -c requirements.lock"
    server.check_packages(parse_arguments([], {}))


def test_the_configuration_in_the_documents_is_one():
    (block,) = re.findall(r"```json\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (entry,) = json.loads(block)["mcpServers"].values()
    assert entry["url"] == f"http://127.0.0.1:7860{MCP}"
