"""What stands in deploy/ fits the program."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import app
from models.errors import UserError
from page.options import PREFIX, new_parser

ROOT = Path(app.__file__).parent
UNIT = (ROOT / "deploy" / "westlake-omni.service").read_text()
FILES = [*filter(Path.is_file, (ROOT / "deploy").iterdir()), ROOT / "docs" / "deploy.md"]


def test_every_variable_is_an_option():
    options = {f"{PREFIX}{name.upper()}" for name in vars(new_parser().parse_args([]))}
    named = {name for file in FILES for name in re.findall(r"WESTLAKE_[A-Z_]+", file.read_text())}
    assert len(named) > 5 and named <= options


def test_the_service_may_write_where_its_data_lies():
    """All else is read-only to it, the home folder that is the default too."""
    state = re.search(r"^StateDirectory=(.+)$", UNIT, re.MULTILINE)[1]
    assert f"WESTLAKE_DATA_FOLDER=/var/lib/{state}\n" in UNIT
    cache = re.search(r"^CacheDirectory=(.+)$", UNIT, re.MULTILINE)[1]
    assert f"XDG_CACHE_HOME=/var/cache/{cache} " in UNIT


def test_a_fault_is_the_same_in_another_process():
    fault = pickle.loads(pickle.dumps(UserError("error_text_too_long", characters=5, limit=3)))
    assert (fault.code, fault.values) == ("error_text_too_long", {"characters": 5, "limit": 3})
    assert "5" in str(fault)
