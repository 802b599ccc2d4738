"""A call beside the main thread: in turn, and with its error."""

import threading

import pytest

from jobs.background import Background


def test_a_call_runs_beside_and_wait_waits_for_it():
    background, go, done = Background(), threading.Event(), []
    background.start(lambda: (go.wait(), done.append(1)))
    assert not done
    go.set()
    background.wait()
    assert done == [1]


def test_the_next_call_starts_after_the_one_before():
    background, order = Background(), []
    for number in range(5):
        background.start(lambda number=number: order.append(number))
    background.wait()
    assert order == [0, 1, 2, 3, 4]


def test_what_a_call_raises_is_raised_once_where_it_is_waited_for():
    background = Background()

    def fail() -> None:
        raise ValueError("lost")

    background.start(fail)
    with pytest.raises(ValueError, match="lost"):
        background.wait()
    background.wait()
