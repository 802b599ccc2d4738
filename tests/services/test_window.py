"""Waiting for a place in the engine: first come first served, and no place is lost."""

import asyncio
from types import SimpleNamespace

from services.window import Window


async def _hold(window: Window, order: list[int], number: int, release: asyncio.Event) -> None:
    async with window:
        order.append(number)
        await release.wait()


def _started(window: Window, count: int) -> tuple[list[int], asyncio.Event, list[asyncio.Task]]:
    order: list[int] = []
    release = asyncio.Event()
    tasks = [asyncio.create_task(_hold(window, order, n, release)) for n in range(count)]
    return order, release, tasks


def test_no_more_enter_than_the_window_holds_and_all_enter_in_order():
    async def scene():
        window = Window(max_num_seqs=4)
        order, release, tasks = _started(window, 20)
        await asyncio.sleep(0)
        assert order == list(range(window.size))
        release.set()
        await asyncio.gather(*tasks)
        assert order == list(range(20))

    asyncio.run(scene())


def test_a_hungry_engine_lets_more_in():
    async def scene():
        window = Window(max_num_seqs=256)
        order, release, tasks = _started(window, 200)
        await asyncio.sleep(0)
        before = len(order)
        window.record(SimpleNamespace(num_running_reqs=before, num_waiting_reqs=0), None)
        await asyncio.sleep(0)
        assert before < len(order) == window.size
        release.set()
        await asyncio.gather(*tasks)

    asyncio.run(scene())


def test_who_gives_up_waiting_takes_no_place_and_who_holds_one_frees_it():
    async def scene():
        window = Window(max_num_seqs=1)
        _, release, tasks = _started(window, 30)
        await asyncio.sleep(0)
        for task in (*tasks[:3], *tasks[10:]):
            task.cancel()
        release.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        size = window.size
        entered, release, tasks = _started(window, 30)
        await asyncio.sleep(0)
        assert len(entered) == size
        release.set()
        await asyncio.gather(*tasks)

    asyncio.run(scene())
