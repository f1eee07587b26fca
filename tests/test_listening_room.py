"""Shares of the store of listening tests: who brings many takes their own room alone."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from fake_model import FakeModel
from page_client import Visitor, function, served
from small_listening import new

from listening.limits import RATING_BYTES, TestLimits
from listening.package import write_package
from listening.room import Maker
from listening.store import FILE, SCHEMA, Store
from models.errors import UserError
from page.limits import Limits

ANN = Maker(user="ann", address="1")
LIMITS = TestLimits(max_tests=10, max_user_tests=2, max_address_tests=4)


def room(num_bytes: int, max_tests: int = 100) -> TestLimits:
    """Without shares."""
    return TestLimits(
        max_tests=max_tests,
        max_user_tests=max_tests,
        max_address_tests=max_tests,
        max_total_bytes=num_bytes,
    )


def is_kept(store: Store, code: str) -> bool:
    try:
        store.test(code)
    except UserError:
        return False
    return True


@pytest.mark.parametrize("is_rated", [False, True])
def test_a_stranger_of_many_names_takes_the_share_of_an_address(tmp_path: Path, is_rated: bool):
    store = Store(tmp_path, LIMITS)
    anns = [store.add(*new(), maker=ANN)[0] for _ in range(2)]
    kept = []
    for number in range(12):
        try:
            code, _ = store.add(*new(), maker=Maker(user=str(number), address="2"))
        except UserError as error:
            assert error.code == "error_tests_share" and "(4 of them" in str(error)
            continue
        kept.append(code)
        if is_rated:
            store.join(code, "x")
    assert all(is_kept(store, code) for code in anns)
    assert [code for code in kept if is_kept(store, code)] == (kept[:4] if is_rated else kept[-4:])
    for address in "345":  # there is room for all others still
        assert is_kept(store, store.add(*new(), maker=Maker(user=address, address=address))[0])


def test_one_user_takes_their_share_only(tmp_path: Path):
    store = Store(tmp_path, LIMITS)
    other = store.add(*new(), maker=Maker(user="bob", address="1"))[0]
    codes = [store.add(*new(), maker=ANN)[0] for _ in range(5)]
    assert [is_kept(store, code) for code in codes] == [False] * 3 + [True] * 2
    for code in codes[3:]:
        store.join(code, "x")
    with pytest.raises(UserError, match=r"\(2 of them"):
        store.add(*new(), maker=ANN)
    assert is_kept(store, other)


def test_a_share_is_one_of_the_bytes_too(tmp_path: Path):
    num_bytes = sum(map(len, new()[1].values())) + len(new()[0].to_json())
    limits = TestLimits(
        max_tests=10, max_user_tests=5, max_address_tests=8, max_total_bytes=4 * num_bytes
    )
    store = Store(tmp_path, limits)
    codes = [store.add(*new(), maker=ANN)[0] for _ in range(3)]
    assert [is_kept(store, code) for code in codes] == [False, True, True]


def test_of_the_unrated_those_of_the_address_that_has_most_go_first(tmp_path: Path):
    store = Store(tmp_path, TestLimits(max_tests=4))
    ann = store.add(*new(), maker=ANN)[0]
    many = [store.add(*new(), maker=Maker(user=u, address="2"))[0] for u in "abc"]
    last = store.add(*new(), maker=Maker(user="x", address="3"))[0]
    assert is_kept(store, ann) and is_kept(store, last)
    assert [is_kept(store, code) for code in many] == [False, True, True]


def test_definitions_and_ratings_take_room(tmp_path: Path):
    test, sounds = new()
    whole = sum(map(len, sounds.values())) + len(test.to_json().encode())
    store = Store(tmp_path, room(whole - 1))
    with pytest.raises(UserError, match="listening tests"):
        store.add(test, sounds)
    store.limits = room(whole)
    code, _ = store.add(test, sounds)
    store.rate(code, store.join(code, "ann"), 0, 4, 1)
    store.limits = room(2 * whole + RATING_BYTES - 1)
    with pytest.raises(UserError, match="listening tests"):
        store.add(test, sounds)
    store.limits = room(2 * whole + RATING_BYTES)
    store.add(test, sounds)
    other = Store(tmp_path / "other", room(whole + RATING_BYTES - 1))
    with pytest.raises(UserError, match="listening tests"):
        other.add(test, sounds, store.ratings(code))


def test_a_file_of_an_earlier_release_is_taken_up(tmp_path: Path):
    test, sounds = new()
    whole = sum(map(len, sounds.values())) + len(test.to_json().encode())
    with sqlite3.connect(tmp_path / FILE) as file:
        file.executescript(SCHEMA)
        file.execute("INSERT INTO tests VALUES (1, 'c', 'o', 0.0, ?)", (test.to_json(),))
        rows = [(1, name, data) for name, data in sounds.items()]
        file.executemany("INSERT INTO sounds VALUES (?, ?, ?)", rows)
    store = Store(tmp_path, room(whole))
    assert store.test("c") == test
    with store._open() as file:
        assert file.execute("SELECT bytes FROM tests").fetchone() == (whole,)
    store.join("c", "ann")
    with pytest.raises(UserError, match="listening tests"):
        store.add(test, sounds)


def test_a_file_that_counts_ratings_in_the_row_of_their_test_is_taken_up(tmp_path: Path):
    test, sounds = new()
    whole = sum(map(len, sounds.values())) + len(test.to_json().encode()) + 2 * RATING_BYTES
    before = Store(tmp_path)
    code, _ = before.add(test, sounds)
    ann = before.join(code, "ann")
    before.rate(code, ann, 0, 4, 1)
    with sqlite3.connect(tmp_path / FILE) as file:
        file.execute("DROP TABLE growth")
        file.execute("UPDATE tests SET bytes = bytes + ?", (RATING_BYTES,))
    store = Store(tmp_path, room(2 * whole - RATING_BYTES - 1))
    again = store.join(code, "ann", ann.key)
    assert (again.num_done, again.trials, again.test) == (1, ann.trials, test)
    assert store.rate(code, again, 1, 5, 1) == 2
    assert [rating.answer for rating in store.ratings(code)] == [4, 5]
    with pytest.raises(UserError, match="listening tests"):
        store.add(test, sounds, store.ratings(code)[:1])
    store.limits = room(2 * whole - RATING_BYTES)
    store.add(test, sounds, store.ratings(code)[:1])


def test_strangers_who_bring_packages_take_nobodys_room(tmp_path: Path):
    store = Store(tmp_path / "own")
    write_package(tmp_path / "package.zip", store, store.add(*new())[0])
    package = (tmp_path / "package.zip").read_bytes()
    limits = Limits(max_tests=10, max_user_tests=2, max_address_tests=4)
    with served(FakeModel(), limits, tmp_path / "data") as (page, url):

        def bring(visitor: Visitor, address: str) -> dict:
            headers = {"X_Forwarded_For": address}  # as a proxy on this machine tells it
            path = json.loads(visitor.upload(package, "package.zip", **headers)[1])[0]
            data = [json.dumps({"package": path})]
            body = {"data": data, "fn_index": bring_index, "session_hash": visitor.session}
            assert visitor.post("/gradio_api/queue/join", body, **headers)[0] == 200
            (end,) = [m for m in visitor.events() if m["msg"] == "process_completed"]
            return json.loads(end["output"]["data"][0])

        bring_index = function(page, "_tests_bring")
        ann, stranger = Visitor(url), Visitor(url)
        code = bring(ann, "192.0.2.1")["built"]["code"]
        own = [bring(stranger, "192.0.2.2")["built"]["code"] for _ in range(4)]
        made_up = [bring(Visitor(url), "192.0.2.2")["built"]["code"] for _ in range(4)]
        assert is_kept(page.store, code)
        assert [is_kept(page.store, kept) for kept in own] == [False] * 4
        assert all(is_kept(page.store, kept) for kept in made_up)
        for kept in made_up:
            page.store.join(kept, "x")
        assert "4 of them" in bring(Visitor(url), "192.0.2.2")["fault"]["en"]
        assert bring(Visitor(url), "192.0.2.3")["built"]["code"]
