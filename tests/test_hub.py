"""A checkpoint's name: a folder, the embedded one, or a Hugging Face id (nothing is fetched)."""

from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import huggingface_hub
import pytest
from huggingface_hub.errors import RepositoryNotFoundError

from models.hub import TINY, check_hub_id, find_folder

FILES = ["model.pth"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> list[tuple]:
    """The calls that a hub made of a folder gets."""
    calls = []

    def download(repo_id, *, revision, allow_patterns):
        calls.append((repo_id, revision, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return calls


def test_an_existing_folder_wins(tmp_path, hub):
    for name in ("mine", "some-one/model"):
        assert find_folder(tmp_path, None, FILES) == tmp_path
        Path(name).mkdir(parents=True)
        assert find_folder(name, None, FILES) == Path(name)
        assert find_folder(tmp_path / name, None, FILES) == tmp_path / name
    assert hub == []


def test_tiny_is_the_embedded_one(hub):
    Path("tiny").mkdir()  # takes nobody's default away
    assert find_folder("tiny", None, FILES) == TINY
    assert find_folder("./tiny", None, FILES) == Path("tiny")
    assert hub == []


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_folder("~", None, FILES) == tmp_path


@pytest.mark.parametrize("name", ["xinchen-ai/Westlake-Omni", "a1/b_c.d-e"])
def test_a_hub_id_is_fetched(tmp_path, hub, name):
    assert find_folder(name, "v1", FILES) == tmp_path
    assert hub == [(name, "v1", ["*.json", "merges.txt", "model.pth"])]


@pytest.mark.parametrize("name", ["Tiny", "./some/model", "a/b/c", "/no/such", "a/", "", "a b/c"])
def test_other_names_are_refused(hub, name):
    with pytest.raises(ValueError, match="no checkpoint.*a folder, 'tiny', or a Hugging Face id"):
        find_folder(name, None, FILES)
    assert hub == []


def test_a_file_is_no_checkpoint(tmp_path):
    path = tmp_path / "config.json"
    path.touch()
    with pytest.raises(ValueError, match="give a folder"):
        find_folder(path, None, FILES)


@pytest.mark.parametrize("name", ["tiny", "."])
def test_a_folder_has_no_revisions(name):
    with pytest.raises(ValueError, match="revision 'main' needs a Hugging Face id"):
        find_folder(name, "main", FILES)


def test_a_failed_download_says_what_to_do(monkeypatch):
    def download(*args, **options):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    problem = "no folder 'some-one/model'.*no route to host.*network.*HF_ENDPOINT.*by hand"
    with pytest.raises(RuntimeError, match=problem):
        find_folder("some-one/model", None, FILES)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (None, None),
        (OSError("no network"), None),
        (RepositoryNotFoundError("404", response=Mock()), "no such id at Hugging Face"),
    ],
)
def test_a_hub_id_is_asked_for_unless_it_is_in_the_cache(monkeypatch, error, told):
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *names: None)
    asked = Mock(side_effect=error)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", asked)
    with pytest.raises(ValueError, match=told) if told else nullcontext():
        check_hub_id("owner/model", FILES)
    assert asked.call_count == 1
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *names: "/a/file")
    check_hub_id("owner/model", FILES)
    assert asked.call_count == 1
