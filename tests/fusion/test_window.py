"""The window finds what an engine decodes at a time, and stays a little above it."""

import pytest

from fusion.window import FIRST_WINDOW, largest_window, next_window, spare


def _settled_window(capacity: int, max_num_seqs: int, steps: int = 200) -> int:
    """The window after many steps of an engine that decodes `capacity` answers at a time."""
    largest = largest_window(max_num_seqs)
    window = min(FIRST_WINDOW, largest)
    for _ in range(steps):
        running = min(window, capacity)
        window = next_window(
            window, in_flight=window, running=running, waiting=window - running, largest=largest
        )
    return window


@pytest.mark.parametrize("capacity", [1, 8, 64, 200, 1000])
def test_the_batch_is_kept_full_and_the_queue_small(capacity):
    window = _settled_window(capacity, max_num_seqs=2048)
    assert capacity < window <= capacity + 3 * spare(capacity)


def test_a_full_kv_cache_shrinks_it():
    assert next_window(300, in_flight=300, running=40, waiting=260, largest=500) == 40 + spare(40)


def test_it_grows_no_further_than_the_engine_s_batch_needs():
    assert _settled_window(10_000, max_num_seqs=64) == largest_window(64)


def test_it_stays_while_it_is_not_used_up():
    assert next_window(64, in_flight=10, running=10, waiting=0, largest=500) == 64
