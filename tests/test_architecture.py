"""The arrows between the parts point one way; read from the imports, nothing is run."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the bottom up: a part imports parts of lower layers only, so never one of its own layer.
# Parts that are not written yet are simply not there; a new file in models/ needs its place here.
LAYERS = [
    {"models", "strings"},
    {"models.contract", "models.errors", "models.libav_decoder", "models.sound_header"},
    {"models.devices", "models.logits", "models.sound_file", "models.stepping"},
    {"models.audio", "models.hub", "models.weights"},
    {
        "models.audio_output",
        "models.conversations",
        "models.files",
        "models.level",
        "models.prosody",
        "models.voice_activity",
        "models.tokenizer",
        "models.transformer",
    },
    {
        "models.westlake.dual_ar",
        "models.westlake.firefly",
        "models.westlake.opinions",
        "models.westlake.published",
        "models.westlake.syllables",
    },
    {"models.westlake.moods", "models.westlake.topics"},
    {"models.westlake.checkpoint_files", "models.westlake.fastest"},
    {"models.westlake.calibration"},
    {"models.westlake.checkpoint"},
    {"models.westlake", "models.omni", "models.mini_omni"},
    {"models.load", "models.elsewhere"},
    {"models.zero_gpu"},
    {"generate"},
    {"listening"},
    {"page"},
    {"app", "training"},
    {"benchmarks", "deploy"},
]
HEIGHT = {part: height for height, layer in enumerate(LAYERS) for part in layer}
FAMILIES = ("models.westlake", "models.omni", "models.mini_omni")
FRONT_ENDS = {"generate", "listening", "page", "app"}
TORCH = {"torch", "torchaudio", "torchvision"}


def part_of(module: str) -> str | None:
    """The part a dotted module name lies in; None: not ours."""
    names = module.split(".")
    prefixes = [".".join(names[:length]) for length in range(len(names), 0, -1)]
    return next((prefix for prefix in prefixes if prefix in HEIGHT), None)


def project_files(root: Path) -> Iterator[tuple[Path, str]]:
    """Every source file outside tests/ and its dotted module name."""
    paths = list(root.glob("*.py"))
    for package in ("strings", "models", "listening", "page", "training", "benchmarks", "deploy"):
        paths += (root / package).rglob("*.py")
    for path in sorted(paths):
        yield path, ".".join(path.relative_to(root).with_suffix("").parts)


def imported_modules(path: Path, module: str) -> set[str]:
    """Dotted names of all that a file imports, inside functions too; `module` is its own name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level] if node.level else []
            source = ".".join(base + ([node.module] if node.module else []))
            found |= {f"{source}.{alias.name}" for alias in node.names}
    return found


def violations(root: Path) -> list[str]:
    found = []
    for path, module in project_files(root):
        here = part_of(module)
        for target in sorted(imported_modules(path, module)):
            library, there = target.split(".")[0], part_of(target)
            upward = there not in {here, None} and HEIGHT[there] >= HEIGHT.get(here, 0)
            page_elsewhere = there == "page" and here not in {"app", "page", "deploy"}
            gradio_elsewhere = library == "gradio" and here not in {"app", "page"}
            torch_in_front_end = library in TORCH and here in FRONT_ENDS
            past_contract = target.startswith(FAMILIES) and here in FRONT_ENDS
            wrong = (upward, page_elsewhere, gradio_elsewhere, torch_in_front_end, past_contract)
            if any(wrong):
                found.append(f"{path.relative_to(root)} imports {target}")
    return found


def test_the_arrows_point_down():
    assert violations(ROOT) == []


def test_the_project_is_read():
    modules = {module for _, module in project_files(ROOT)}
    assert "models.westlake.firefly.codec" in modules
    path = ROOT / "models" / "westlake" / "firefly" / "codec.py"
    config = "models.westlake.firefly.config.FireflyConfig"
    assert config in imported_modules(path, "models.westlake.firefly.codec")


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("models/westlake/firefly/codec.py", "from models.westlake.dual_ar import KVCache"),
        ("models/westlake/firefly/codec.py", "from ..dual_ar.cache import KVCache"),
        ("models/westlake/firefly/codec.py", "from .. import dual_ar"),
        ("models/westlake/firefly/codec.py", "from ..checkpoint import load_checkpoint"),
        ("models/westlake/firefly/codec.py", "from models.westlake import checkpoint"),
        ("models/westlake/dual_ar/model.py", "import models.westlake.firefly.conv"),
        ("models/westlake/dual_ar/__init__.py", "from ..firefly import FireflyConfig"),
        ("models/westlake/dual_ar/model.py", "def f():\n    import models.westlake.firefly"),
        ("models/westlake/checkpoint.py", "from generate import generate_long"),
        ("models/westlake/checkpoint.py", "from .conversation import Conversation"),
        ("models/audio.py", "import app"),
        ("models/unknown.py", "from .westlake.firefly import FireflyConfig"),
        ("models/audio.py", "import gradio as gr"),
        ("generate.py", "import training.data"),
        ("generate.py", "from app import build_demo"),
        ("generate.py", "from gradio import Error"),
        ("benchmarks/codec.py", "import gradio"),
        ("deploy/ray_serve.py", "import gradio"),
        ("app.py", "from deploy.ray_serve import build"),
        ("generate.py", "from page import texts"),
        ("benchmarks/lm.py", "from page import texts"),
        ("generate.py", "import torch"),
        ("generate.py", "from models.westlake.checkpoint import load_checkpoint"),
        ("generate.py", "def f():\n    from models.westlake import checkpoint"),
        ("page/session.py", "from models.westlake.conversation import Conversation"),
        ("app.py", "from models.omni.checkpoint import load"),
        ("models/load.py", "import generate"),
        ("models/errors.py", "from .audio import load_audio"),
        ("strings/__init__.py", "from models.errors import UserError"),
        ("models/omni/model.py", "from ..westlake.conversation import Conversation"),
        ("models/audio.py", "from .load import load_model"),
        ("training/run.py", "from page import texts"),
        ("page/session.py", "import torch"),
        ("page/session.py", "import app"),
        ("listening/making.py", "import torch"),
        ("listening/store.py", "from page.limits import Limits"),
        ("listening/making.py", "import gradio"),
        ("generate.py", "from listening.store import Store"),
        ("app.py", "import torch"),
        ("app.py", "import training.data"),
        ("app.py", "from torch import nn"),
        ("app.py", "import torchaudio.functional as AF"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, file: str, line: str):
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{line}\n")
    assert len(violations(tmp_path)) == 1


def test_tests_in_a_browser_are_named_so():
    """By which `Together` of conftest.py tells them."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        drives = "\nfrom browser import" in path.read_text(encoding="utf-8")
        assert drives == path.name.startswith("test_browser"), path


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("app.py", "import gradio as gr\nfrom generate import generate_long"),
        ("app.py", "from page.session import Session"),
        ("deploy/ray_serve.py", "import app\nfrom page.options import parse_arguments"),
        ("page/session.py", "from generate import generate_long"),
        ("page/rating.py", "from listening.store import Store"),
        ("listening/making.py", "from generate import generate_long"),
        ("page/talk.py", "import gradio as gr\nfrom models.load import load_model"),
        ("generate.py", "from models import audio\nfrom models.load import load_model"),
        ("models/westlake/speech_model.py", "from ..errors import UserError\nfrom . import reply"),
        (
            "models/westlake/checkpoint.py",
            "from .firefly import FireflyConfig\nfrom . import dual_ar",
        ),
        ("models/westlake/firefly/__init__.py", "from .codec import FireflyArchitecture"),
        ("training/train.py", "from training.data import read\nimport generate"),
        ("benchmarks/lm.py", "import models.westlake.dual_ar as dual_ar\nimport torch"),
    ],
)
def test_a_right_import_is_not(tmp_path: Path, file: str, line: str):
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{line}\n")
    assert violations(tmp_path) == []
