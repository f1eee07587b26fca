"""One page that strangers call, for a file of tests each."""

from collections.abc import Iterator

import pytest
from fake_model import FakeModel
from page_client import served
from strangers import LIMITS

import app


@pytest.fixture(scope="module")
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture(scope="module")
def ours(model: FakeModel) -> Iterator[tuple[app.Page, str]]:
    with served(model, LIMITS) as page:
        yield page


@pytest.fixture
def page(ours: tuple[app.Page, str], model: FakeModel) -> Iterator[app.Page]:
    yield ours[0]
    model.__init__()  # hooks and pace as they were


@pytest.fixture
def url(page: app.Page, ours: tuple[app.Page, str]) -> str:
    return ours[1]
