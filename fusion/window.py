"""How many answers to have in flight in one engine: as many as it decodes, and a few to follow."""

FIRST_WINDOW = 32
LEAST_SPARE = 4


def spare(running: int) -> int:
    """How many answers should wait in the engine, so that it never lacks the next one."""
    return max(LEAST_SPARE, running // 8)


def largest_window(max_num_seqs: int) -> int:
    """More than this in flight can only wait."""
    return max_num_seqs + spare(max_num_seqs)


def next_window(window: int, *, in_flight: int, running: int, waiting: int, largest: int) -> int:
    """The window after a step of the engine.

    It grows by an eighth while the engine takes all that it is given, and falls back to what runs
    when answers pile up in front of it (its batch or its KV cache is full).

    Args:
        window: The window so far.
        in_flight: Answers handed to the engine and not finished; it is bounded by the window.
        running: Answers that the engine decodes.
        waiting: Answers in the engine's own queue.
        largest: The window never exceeds this.
    """
    if waiting > 2 * spare(running):
        return min(largest, running + spare(running))
    is_hungry = in_flight >= window and in_flight - running < spare(running)
    return min(largest, window + spare(window)) if is_hungry else window
