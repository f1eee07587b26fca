"""native.c is compiled once per content, flags and processor; only a private file is loaded."""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from models.transformer.native import compiled as library

pytestmark = pytest.mark.skipif(
    library.load_library() is None, reason="native.c can't be compiled here"
)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "westlake-omni"


@pytest.fixture
def compiled(monkeypatch) -> list[list[str]]:
    """The compiler's calls; it copies what was compiled once, as compiling takes seconds."""
    calls = []
    original = Path(library.load_library()._name)
    if not original.exists():
        pytest.skip("the compiled file was a temporary one")

    def copying(command, **options):
        calls.append(command)
        shutil.copyfile(original, command[command.index("-o") + 1])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(library.subprocess, "run", copying)
    return calls


def test_it_is_compiled_once(cache, compiled):
    assert library._load() is not None and library._load() is not None
    assert len(compiled) == 1
    (path,) = cache.iterdir()
    assert cache.stat().st_mode & 0o777 == 0o700
    assert path.name == f"native-{library._key()}.so"


def test_a_damaged_file_is_compiled_again(cache, compiled):
    cache.mkdir(parents=True, mode=0o700)
    path = cache / f"native-{library._key()}.so"
    path.write_bytes(b"damaged")
    assert library._load() is not None
    assert len(compiled) == 1 and path.stat().st_size > 7


def test_other_flags_and_another_content_are_compiled_anew(cache, compiled, tmp_path, monkeypatch):
    library._load()
    monkeypatch.setattr(library, "FLAGS", (*library.FLAGS, "-DX"))
    library._load()
    changed = tmp_path / "native.c"
    changed.write_text("// other")
    monkeypatch.setattr(library, "SOURCE", changed)
    library._load()
    assert len(compiled) == len(list(cache.iterdir())) == 3


def test_another_processor_has_a_file_of_its_own(cache, compiled, monkeypatch):
    for about in (
        "model name : A\ncpu MHz : 2000\nflags : avx2",
        "model name : A\ncpu MHz : 3000\nflags : avx2",  # the same at another moment
        "model name : A\ncpu MHz : 2000\nflags : avx2 avx512f",
        "model name : B\ncpu MHz : 2000\nflags : avx2",
    ):
        monkeypatch.setattr(
            library, "open", lambda *_, about=about, **how: io.StringIO(about), raising=False
        )
        library._load()
    assert len(compiled) == len(list(cache.iterdir())) == 3


def test_a_file_has_its_name_only_when_it_is_whole(cache, monkeypatch):
    def killed(command, **options):
        Path(command[command.index("-o") + 1]).write_bytes(b"half")
        assert not list(cache.glob("native-*"))
        raise KeyboardInterrupt

    monkeypatch.setattr(library.subprocess, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        library._load()
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_folder_that_others_may_write_is_not_used(cache, compiled, mode):
    cache.mkdir(parents=True)
    cache.chmod(mode)
    assert library._load() is not None
    assert not list(cache.iterdir())


def test_a_file_of_another_is_not_loaded(cache, compiled, monkeypatch):
    library._load()
    (path,) = cache.iterdir()
    path.chmod(0o777)
    library._load()
    assert len(compiled) == 2
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert library._load() is not None, "as in a temporary folder"
    assert len(compiled) == 3


def test_a_cache_that_cannot_be_made(cache, compiled, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert library._load() is not None


@pytest.mark.parametrize("fault", [PermissionError(13, "Permission denied"), None])
def test_without_a_compiler_that_runs_there_is_none(cache, monkeypatch, fault):
    if fault is None:
        monkeypatch.setattr(library.shutil, "which", lambda name: None)
        monkeypatch.setattr(library.importlib.util, "find_spec", lambda name: None)
    else:

        def refuse(*given, **options):
            raise fault

        monkeypatch.setattr(library.subprocess, "run", refuse)
    assert library._load() is None


def test_folders_whose_files_cannot_be_loaded(cache, compiled, monkeypatch):
    """As on a file system without execution."""

    def noexec(path):
        raise OSError(f"{path}: failed to map segment from shared object")

    monkeypatch.setattr(library, "CDLL", noexec)
    assert library._load() is None


def test_an_instruction_set_that_is_asked_for(cache, compiled, monkeypatch):
    """It has a file of its own; one that the file is not for is not used."""
    best = library.isa_of(library.load_library())
    for isa in library.INSTRUCTION_SETS:
        monkeypatch.setenv(library.ISA_SWITCH, isa)
        assert (library._load() is not None) == (isa == best)
    assert len(list(cache.iterdir())) == 3, "avx512 and avx2 leave out what is better"
    monkeypatch.setenv(library.ISA_SWITCH, "sse9")
    allowed = "allowed are amx, avx512, avx2, neon"
    with pytest.raises(ValueError, match=f"WESTLAKE_ISA is 'sse9', {allowed}"):
        library._load()


def test_ziglang_serves_where_there_is_no_compiler(cache, compiled, monkeypatch):
    monkeypatch.setattr(library.shutil, "which", lambda name: None)
    monkeypatch.setattr(library.importlib.util, "find_spec", lambda name: name == "ziglang" or None)
    assert library._load() is not None
    assert compiled[0][:4] == [sys.executable, "-m", "ziglang", "cc"]


def test_the_log_says_what_is_used_and_what_to_do(cache, compiled, monkeypatch):
    lines = []
    sink = library.logger.add(lambda line: lines.append(str(line)), format="{message}")
    library._load()
    cache.joinpath(f"native-{library._key()}.so").unlink()
    monkeypatch.setattr(library.shutil, "which", lambda name: None)
    monkeypatch.setattr(library.importlib.util, "find_spec", lambda name: None)
    library._load()
    library.logger.remove(sink)
    used, missing = lines
    assert f"native.c for {library.isa_of(library.load_library())}" in used
    assert "quantised" not in used + missing  # the codec may be in it without such weights
    assert "PyTorch alone, more slowly: no C compiler: install cc, or ziglang with pip" in missing


def test_what_ziglang_compiles_is_loaded(cache, monkeypatch):
    pytest.importorskip("ziglang")
    monkeypatch.setattr(library.shutil, "which", lambda name: None)
    found = library._load()
    assert found is not None and library.isa_of(found) == library.isa_of(library.load_library())
    assert next(cache.iterdir()).name == f"native-{library._key()}.so"
