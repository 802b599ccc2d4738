"""A loop is told from an answer that merely repeats itself."""

from hypothesis import given
from hypothesis import strategies as st

from fusion.looping import repeated_tail

TOKENS = st.lists(st.integers(0, 50), max_size=60)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), TOKENS)
def test_a_piece_repeated_to_the_end_is_found(piece, before):
    looping = [*before, *piece * (64 // len(piece) + 5)]
    found = repeated_tail(looping)
    assert 0 < found <= len(piece)
    assert len(piece) % found == 0 or looping[-found:] == looping[-2 * found : -found]


def test_the_cut_may_fall_inside_a_piece():
    assert repeated_tail(list(range(10)) * 8 + [0, 1, 2]) == 10


def test_text_without_repetition_is_no_loop():
    assert repeated_tail(list(range(4096))) == 0


def test_a_short_row_of_the_same_token_is_no_loop():
    assert repeated_tail([*range(100), *[7] * 31]) == 0


def test_repetition_at_the_end_of_a_long_answer_is_no_loop():
    assert repeated_tail([*range(1000), *[7] * 100]) == 0


def test_a_loop_that_was_left_again_is_no_loop():
    assert repeated_tail([*[7] * 500, 1, 2, 3]) == 0


def test_three_times_the_same_is_no_loop():
    assert repeated_tail(list(range(100)) * 3) == 0


def test_an_answer_without_tokens_is_no_loop():
    assert repeated_tail([]) == 0
