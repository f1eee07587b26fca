"""The folder that visitors' files are in: private, and gone in the end."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from page.private import PrivateFolder

ROOT = Path(__file__).parent.parent


def test_it_is_private_and_goes(tmp_path: Path):
    folder = PrivateFolder(tmp_path)
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    (folder.path / "sound.wav").write_bytes(b"x")
    other = PrivateFolder(tmp_path)
    assert folder.path.exists() and other.path != folder.path  # both live
    folder.close()
    other.close()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_goes_at_the_next_start(tmp_path: Path):
    program = (
        "import os, sys; from page.private import PrivateFolder;"
        "folder = PrivateFolder(sys.argv[1]); (folder.path / 'a.wav').touch();"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, timeout=60)
    (left,) = tmp_path.iterdir()
    (tmp_path / "westlake-omni-not-a-folder").touch()
    (tmp_path / "westlake-omni-link").symlink_to(ROOT)
    folder = PrivateFolder(tmp_path)
    assert not left.exists() and (ROOT / "app.py").exists()
    folder.close()


def test_one_that_another_process_took_away_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    make, made = tempfile.mkdtemp, []

    def make_and_lose(**options: object) -> str:
        made.append(make(**options))
        if len(made) == 1:
            Path(made[0]).rmdir()
        elif len(made) == 2:
            lock = os.open(Path(made[1], ".lock"), os.O_CREAT | os.O_RDWR)
            fcntl.flock(lock, fcntl.LOCK_EX)
            held.append(lock)
        return made[-1]

    held: list[int] = []
    monkeypatch.setattr(tempfile, "mkdtemp", make_and_lose)
    folder = PrivateFolder(tmp_path)
    assert len(made) == 3 and str(folder.path) == made[2]
    folder.close()
    os.close(held[0])


def test_one_that_goes_while_others_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    gone, left = tmp_path / "westlake-omni-1", tmp_path / "westlake-omni-2"
    left.mkdir()
    (left / ".lock").touch()
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([gone, left]))
    PrivateFolder(tmp_path).close()
    assert not left.exists()


def test_a_folder_that_can_not_be_made_is_told(tmp_path: Path):
    with pytest.raises(ValueError, match="TMPDIR"):
        PrivateFolder(tmp_path / "none")
