"""The sources of a run on Ray Serve, found by name."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from fastapi import FastAPI
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from fusion.rewards.judgement import Judgement
from fusion.run import Run
from services.answers import Reply
from services.applications import (
    handle,
    reward_application_name,
    running,
    source_application_name,
)
from services.gateway.app import build_app
from services.gateway.ingress import exposed_reward, exposed_sources
from services.gateway.sources import Method, Part, SourceDownError

LOOK_EVERY_S = 1.0


def deployed_app(run: Run) -> FastAPI:
    """The endpoint over a run's applications on Ray Serve.

    Raises:
        BadInputError: the keys file is no keys file.
    """
    recipe = run.recipe
    sources = DeployedSources(
        recipe.name,
        [source.name for source in exposed_sources(recipe)],
        reward=exposed_reward(recipe),
        timeout_s=recipe.endpoint.limits.timeout_s,
    )
    return build_app(run, sources)


class DeployedSources:
    """Handles of the applications of a run; which of them run is looked up once a second."""

    def __init__(
        self,
        run: str,
        names: Sequence[str],
        *,
        reward: str | None,
        timeout_s: float,
    ) -> None:
        self.names = tuple(names)
        self.has_reward = reward is not None
        self._reward = reward
        self._run = run
        self._timeout_s = timeout_s
        self._running: frozenset[str] = frozenset()
        self._handles: dict[str, DeploymentHandle] = {}

    def up(self) -> list[str]:
        """Those of the names whose application runs."""
        return [n for n in self.names if source_application_name(self._run, n) in self._running]

    async def watch(self) -> None:
        """Look up what runs, again and again; while nobody can tell, what ran is taken to run."""
        while True:
            with contextlib.suppress(RayError, RayServeException):  # the head is away
                self._running = frozenset(await asyncio.to_thread(running, self._running))
            await asyncio.sleep(LOOK_EVERY_S)

    async def ask(
        self, source: str, method: Method, body: dict[str, Any], longest: int
    ) -> AsyncGenerator[Part, None]:
        """One reply, or the server-sent events of a stream in batches."""
        if source not in self.up():
            raise SourceDownError("it is down")
        asked = self._handle(source_application_name(self._run, source)).options(stream=True)
        parts = asked.openai.remote(method, body, longest)
        is_over = False  # a whole reply is the last part; to cancel what is over has its cost
        try:
            while not is_over:
                async with asyncio.timeout(self._timeout_s):
                    part = await anext(parts)
                is_over = isinstance(part, Reply)
                yield part
        except StopAsyncIteration:
            is_over = True
        except TimeoutError as error:
            raise SourceDownError(f"it said nothing for {self._timeout_s:g} s") from error
        except (RayError, RayServeException) as error:
            raise SourceDownError(f"its replica failed ({type(error).__name__})") from error
        finally:
            if not is_over:
                parts.cancel()

    async def score(self, conversations: Sequence[list[dict[str, str]]]) -> list[Judgement]:
        """The reward of each conversation."""
        name = reward_application_name(self._run, str(self._reward))
        if name not in self._running:
            raise SourceDownError("the reward model is down")
        asked = self._handle(name).score.remote(list(conversations))
        try:
            judgements: list[Judgement] = await asyncio.wait_for(asked, self._timeout_s)
        except (TimeoutError, RayError, RayServeException) as error:
            raise SourceDownError(f"the reward model failed ({type(error).__name__})") from error
        return judgements

    def _handle(self, application: str) -> DeploymentHandle:
        if application not in self._handles:
            self._handles[application] = handle(application)
        return self._handles[application]
