"""What several test modules share: the codec at full size and at a small one."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pytest
import torch
from parity import load_json, seeded_state_dict
from small_mini_omni import write_mini_omni
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from models.contract import SpeechModel
from models.mini_omni.speech_model import MiniOmniModel, load_mini_omni
from models.westlake.firefly import FireflyArchitecture, FireflyConfig

if TYPE_CHECKING:  # what few tests need is imported when one of them begins
    from browser import Pages, People

    import app

# The browser, the page's server and the synthesiser run beside the tests: threads that wait for
# each other at every small product would make all of them slow.
torch.set_num_threads(1)

everybody: list[People] = []  # who has browsers, once a test has asked for them
chromium_open = ExitStack()


class Together(LoadScopeScheduling):
    """Which tests stay in one process where there are several, by `-n`.

    Those of a folder or file share what is made once; a second browser beside the first would take
    the time that both wait for sounds.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = PurePosixPath(nodeid.partition("::")[0])
        return "browser" if file.name.startswith("test_browser") else "/".join(file.parts[:2])


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Together:
    config.option.loadscopereorder = False  # else what has most tests would come first
    return Together(config, log)


def needs_browsers(item: pytest.Item) -> bool:
    return item.path.name.startswith("test_browser")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What can't be shared among processes comes first, so that all end at about the same time:
    browsers, which take longest, then folders."""
    folder = Path(__file__).parent
    items.sort(key=lambda item: (not needs_browsers(item), item.path.parent == folder))


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if nextitem is None or not needs_browsers(nextitem):  # their event loop would be in its way
        pytest_sessionfinish()


def pytest_sessionfinish() -> None:
    everybody.clear()
    chromium_open.close()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """Gives PyTorch another number of threads until the test's end."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Pages that tests start as processes of their own keep nothing in this user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WESTLAKE_DATA_FOLDER", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture
def people(tmp_path_factory: pytest.TempPathFactory) -> People:
    """Browsers, whose microphones hear somebody speak: the same ones for all tests in a row."""
    from browser import People, chromium

    if not everybody:
        browser = chromium_open.enter_context(chromium(tmp_path_factory.mktemp("microphone")))
        everybody.append(People(browser))
    return everybody[0]


@pytest.fixture(scope="module")
def ours(model: SpeechModel, request: pytest.FixtureRequest) -> Iterator[tuple[app.Page, str]]:
    """The page of a file's `model`, with its `LIMITS` if it has some, and the page's address."""
    from page_client import served

    with served(model, getattr(request.module, "LIMITS", None)) as page:
        yield page


@pytest.fixture
def open_page(people: People, ours: tuple[app.Page, str]) -> Iterator[Pages]:
    """Opens it in fresh windows; an error in one of them fails the test."""
    from browser import Pages

    pages = Pages(people, ours[1])
    yield pages
    pages.close()


@pytest.fixture
def no_grad() -> Iterator[None]:
    """Gradients off while a test runs; a module asks for it with ``usefixtures``."""
    with torch.no_grad():
        yield


@pytest.fixture
def no_collector() -> Iterator[None]:
    """The collector of cycles off while a test runs, as it comes to what is old after hours."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(scope="session")
def full_codec() -> FireflyArchitecture:
    """The published size with the weights behind the golden numbers; read only."""
    codec = FireflyArchitecture(FireflyConfig())
    codec.load_state_dict(seeded_state_dict(load_json("firefly_state_dict.json")), strict=True)
    return codec.eval()


@pytest.fixture(scope="session")
def small_codec() -> FireflyArchitecture:
    """A small codec at another rate, with seeded weights; read only."""
    codec = FireflyArchitecture(
        FireflyConfig(
            sample_rate=22050,
            n_fft=1024,
            win_length=1024,
            hop_length=256,
            n_mels=100,
            encoder_depths=(1, 1, 1, 1),
            encoder_dims=(32, 48, 64, 64),
            decoder_dim=64,
            upsample_rates=(8, 8, 2, 2),
            upsample_kernel_sizes=(16, 16, 4, 4),
            resblock_kernel_sizes=(3, 7),
        )
    )
    shapes = {key: tuple(tensor.shape) for key, tensor in codec.state_dict().items()}
    codec.load_state_dict(seeded_state_dict(shapes), strict=True)
    return codec.eval()


@pytest.fixture(scope="session")
def mini_omni_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random Mini-Omni in the published layout; read only."""
    return write_mini_omni(tmp_path_factory.mktemp("mini-omni"))


@pytest.fixture(scope="session")
def mini_omni(mini_omni_folder: Path) -> MiniOmniModel:
    """The same, loaded in float32; read only."""
    return load_mini_omni(mini_omni_folder, "cpu", "float32", None)
