"""Which replies a page has ended, whatever the order in which its calls come."""

from __future__ import annotations

from threading import Event, Thread

import pytest

from models.errors import UserError
from page.asked import Asked


def nothing() -> None:
    pass


def test_what_ends_a_reply_may_overtake_it():
    asked = Asked(1)
    with asked.ended("page", 2, nothing) as are_any:
        assert not are_any
    with asked.reply("page", 1) as is_over, asked.reply("page", 3) as is_later_over:
        assert is_over() and not is_later_over()
    with asked.reply("other", 1) as is_over:
        assert not is_over()


def test_a_reply_that_is_about_to_begin_is_interrupted_until_it_ends():
    asked, begun, has_begun, may_end = Asked(1), Event(), Event(), Event()

    def reply() -> None:
        with asked.reply("page", 1):
            begun.set()
            may_end.wait(10)

    def interrupt() -> None:
        if has_begun.is_set():
            may_end.set()
        has_begun.set()  # after the first interruption

    making = Thread(target=reply)
    making.start()
    assert begun.wait(10)
    with asked.ended("page", 2, interrupt) as are_any:
        assert are_any and may_end.is_set()
    making.join(10)


def test_what_is_asked_for_next_begins_once_the_one_before_has_ended():
    asked, order = Asked(10), []

    def reply() -> None:
        with asked.reply("page", 3) as is_over:
            order.append(f"reply that is {'over' if is_over() else 'current'}")

    following = Thread(target=reply)
    with asked.ended("page", 2, nothing):
        following.start()
        following.join(0.1)
        order.append("ended")
    following.join(10)
    assert order == ["ended", "reply that is current"]


def test_what_ends_replies_late_leaves_one_that_was_asked_for_after_it():
    asked, interruptions = Asked(1), []
    with asked.reply("page", 6) as is_over:
        with asked.ended("page", 5, lambda: interruptions.append(5)) as are_any:
            assert are_any is None
        assert not is_over() and not interruptions


def test_what_begins_anew_late_ends_all_that_has_begun():
    asked, ending, found = Asked(1), Event(), []

    def reply() -> None:
        with asked.reply("page", 6) as is_over:
            begun.set()
            found.append(ending.wait(10) and is_over())

    begun, making = Event(), Thread(target=reply)
    making.start()
    assert begun.wait(10)
    with asked.ended("page", 5, ending.set, begun=True) as are_any:
        assert are_any
    making.join(10)
    assert found == [True]
    with asked.reply("page", 7) as is_over:
        assert not is_over()


def test_a_reply_begins_only_once_all_that_ends_replies_is_over():
    asked = Asked(0.05)
    with asked.ended("page", 2, nothing):
        with asked.ended("page", 3, nothing):  # has waited for the first in vain
            pass
        with pytest.raises(UserError, match="busy"), asked.reply("page", 4):
            pass
    with asked.reply("page", 4) as is_over:
        assert not is_over()
