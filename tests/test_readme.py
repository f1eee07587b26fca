"""What README and the project's files promise a newcomer is so."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from page.options import new_parser

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
# What a snippet's line needs that a test has not: the network, hours, or a server for ever.
NOT_RUN = ("pip install", "xinchen-ai/", "Qwen/", "docker ", "training.", "python app.py")


def blocks(language: str) -> list[str]:
    # Text, a fence and its word, the block, the closing fence, text and so on.
    parts = re.split(r"^```(\w*)\n", README, flags=re.MULTILINE)
    return [block for word, block in zip(parts[1::4], parts[2::4]) if word == language]


def shell_lines() -> list[str]:
    """The command lines of the shell blocks, without their comments."""
    lines = "".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [line for line in (line.split("  #")[0].strip() for line in lines) if line]


RUN = [line for line in shell_lines() if not any(part in line for part in NOT_RUN)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout that a snippet may write into, with a player."""
    for path in ROOT.iterdir():
        (tmp_path / path.name).symlink_to(path)
    player = tmp_path / "bin" / "aplay"
    player.parent.mkdir()
    player.write_text("#!/bin/sh\ncat > played\n")
    player.chmod(0o755)
    return tmp_path


def run(command: list[str], folder: Path) -> str:
    path = f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_are_snippets_to_run():
    assert len(blocks("python")) >= 1
    assert len(RUN) >= 2


@pytest.mark.parametrize("snippet", blocks("python"))
def test_python_snippets_run(snippet, folder):
    assert run([sys.executable, "-c", snippet], folder).strip()


@pytest.mark.parametrize("line", RUN)
def test_shell_snippets_run(line, folder):
    run(["bash", "-ec", f"set -o pipefail; {line}"], folder)
    written = re.search(r"--output (\S+)", line)
    if written and written[1] != "-":
        assert (folder / written[1]).stat().st_size > 10_000
    if "aplay" in line:
        assert (folder / "played").stat().st_size > 10_000


def tree() -> list[Path]:
    """What the README's tree names, relative to the root."""
    (block,) = [block for block in blocks("") if block.startswith("app.py")]
    found, parents = [], []
    for line in block.splitlines():
        indent = len(line) - len(line.lstrip())
        if indent > 10:  # a description that goes on
            continue
        for name in re.split(r"\s{2,}(?=\S)", line.strip()):
            if not re.fullmatch(r"\.?[\w./-]+", name):
                continue
            parents = [parent for parent in parents if parent[0] < indent]
            found.append(Path(*(parent for _, parent in parents), name))
            if name.endswith("/"):
                parents.append((indent, name))
    return found


def test_the_file_tree_names_what_is_there():
    for path in tree():
        assert (ROOT / path).exists(), f"README's tree names {path}"


def test_the_file_tree_names_all_that_stands_at_the_top():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("no git checkout")
    tracked = {name.split("/")[0] for name in listed.stdout.splitlines()}
    assert len(tracked) > 10 and tracked - {path.parts[0] for path in tree()} == set()


def test_every_link_into_the_project_leads_somewhere():
    documents = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")]
    documents += [*ROOT.glob("docs/*.md"), *ROOT.glob("SECURITY.md")]
    for document in documents:
        for link in re.findall(r"\]\(([^)#]+)", document.read_text(encoding="utf-8")):
            if "://" not in link and not link.startswith("mailto:"):
                assert (document.parent / link).exists(), f"{document.name} links to {link}"


def test_the_options_of_serving_exist():
    section = README.split("## Serve it")[1].split("\n## ")[0]
    named = set(re.findall(r"--[a-z][a-z-]+", section + (ROOT / "SECURITY.md").read_text()))
    known = {option for action in new_parser()._actions for option in action.option_strings}
    assert len(named) > 10 and named <= known


def pins(text: str) -> dict[str, str]:
    found = re.findall(r"^([\w.-]+)(?:\[\w+\])?==([^\s;#]+)", text, re.MULTILINE)
    return {name.lower().replace("_", "-"): version for name, version in found}


def test_the_lock_has_every_pin_and_no_address():
    required: dict[str, str] = {}
    for path in ROOT.glob("requirements*.txt"):
        required |= pins(path.read_text())
    locked = pins(LOCK)
    assert len(required) > 10 and len(locked) > 2 * len(required)
    assert required.items() <= locked.items()
    assert "/" not in LOCK.replace("# ", "")


def test_the_commands_install_by_the_lock():
    lines = [*shell_lines(), *(ROOT / ".ci" / "run").read_text().splitlines()]
    installs = [line for line in lines if re.search(r"pip install.* -r", line)]
    assert len(installs) >= 4
    for line in installs:
        assert re.search(r"-r requirements(-\w+)?\.txt -c requirements\.lock", line), line


def test_ci_runs_the_test_command():
    (command,) = (line for line in shell_lines() if "&& pytest" in line)
    assert command.split(" && ")[-1] in (ROOT / ".ci" / "run").read_text()


def test_the_python_that_is_promised_is_the_one_that_is_checked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    minimum = re.fullmatch(r">=(3\.\d+)", project["project"]["requires-python"])[1]
    assert project["tool"]["mypy"]["python_version"] == minimum
    assert project["tool"]["ruff"]["target-version"] == "py" + minimum.replace(".", "")
    assert f'"{minimum}"' in (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert f"Python {minimum}" in README
