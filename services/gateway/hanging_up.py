"""Clients that hang up while their answer is made."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.types import Receive

Result = TypeVar("Result")


class HungUpError(Exception):
    """The client is gone, and nobody waits for the answer."""


async def unless_hung_up(answer: Awaitable[Result], receive: Receive) -> Result:
    """What an answer comes to, unless the client goes first: then it is given up.

    Raises:
        HungUpError: the client is gone.
    """
    asked = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({asked, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not asked.done():
            raise HungUpError
        return asked.result()
    finally:
        for task in (asked, gone):
            task.cancel()
        await asyncio.gather(asked, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
