"""Jobs on a Ray cluster, through its job server: submit, follow, look, stop."""

import asyncio
import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import aiohttp
import httpx
import ray
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from cluster.package import Package
from fusion.errors import BadInputError, CrucibleError

ANSWER_TIMEOUT_S = 10.0
# How long a head may be away, while a job is followed, before following ends.
HEAD_GONE_S = 120.0
PAUSE_S = 2.0
# After SIGTERM Ray kills a job in 3 s; Serve takes 5 and more to take its models down.
STOP_ENVIRONMENT = {"RAY_JOB_STOP_WAIT_TIME_S": "60"}
FAILED = 1
_TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
_HAS_ENDED = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED)


class JobServer:
    """The job server of one cluster, reached and of our Ray version."""

    def __init__(self, address: str, token: str | None) -> None:
        """Reach the server.

        Raises:
            BadInputError: nobody answers, the token is missing or wrong, or Ray's versions differ.
        """
        self.address = address.rstrip("/")
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        _check_server(self.address, headers)
        try:
            self._client = JobSubmissionClient(self.address, headers=headers)
            self._client.list_jobs()  # the version is told to anyone, the jobs are not
        except AuthenticationError:
            raise BadInputError(_wrong_token(self.address, has_token=bool(token))) from None
        except (ConnectionError, RuntimeError) as error:
            raise BadInputError(_no_answer(self.address, str(error))) from None

    def submit(self, name: str, entrypoint: str, package: Package, env: Mapping[str, str]) -> str:
        """Start a job of that name, or find the one that runs or has succeeded under it.

        One that failed or was stopped gets a successor: NAME-2, NAME-3 and so on.

        Returns:
            The name under which the job is known.
        """
        attempt = self._attempt(name)
        if self._find(attempt) is not None:
            return attempt
        with tempfile.TemporaryDirectory(prefix="crucible-submit-") as folder:
            file = Path(folder) / f"{package.digest}.zip"
            file.write_bytes(package.content)
            runtime_env = {"working_dir": str(file), "env_vars": {**STOP_ENVIRONMENT, **env}}
            try:
                self._client.submit_job(
                    entrypoint=entrypoint, submission_id=attempt, runtime_env=runtime_env
                )
            except RuntimeError as error:
                if self._find(attempt) is None:  # else another submit of it was faster
                    raise CrucibleError(f"The cluster refused the job: {error}") from error
        return attempt

    def jobs(self) -> list[JobDetails]:
        """All submitted jobs that the cluster knows, the latest first."""
        known = [job for job in self._client.list_jobs() if job.submission_id]
        return sorted(known, key=lambda job: job.start_time or 0, reverse=True)

    def job(self, name: str) -> JobDetails:
        """One job.

        Raises:
            BadInputError: the cluster knows none of that name.
        """
        found = self._find(name)
        if found is None:
            raise BadInputError(
                f"The cluster at {self.address} knows no job {name}; `crucible submit status` "
                "lists those that it knows."
            )
        return found

    def logs(self, name: str) -> str:
        """What a job has printed so far."""
        self.job(name)
        return str(self._client.get_job_logs(name))

    def stop(self, name: str) -> None:
        """Ask a job to stop; it takes its models down first."""
        self.job(name)
        self._client.stop_job(name)

    def follow(self, name: str, write: Callable[[str], None]) -> int:
        """Write what a job prints until it ends; a head that does not answer is waited for.

        Returns:
            The exit status of its entrypoint.

        Raises:
            CrucibleError: the head was gone for too long, or came back without the job.
        """
        written, gone_since = _Written(write), None
        while True:
            try:
                details = self._find(name)
                if details is not None:
                    asyncio.run(self._tail(name, written))
                gone_since = None
            except (OSError, RuntimeError, aiohttp.ClientError) as error:
                gone_since = gone_since or time.monotonic()
                if time.monotonic() - gone_since > HEAD_GONE_S:
                    raise CrucibleError(_no_answer(self.address, str(error))) from error
                time.sleep(PAUSE_S)
                continue
            if details is None:
                raise CrucibleError(_forgotten(self.address, name))
            if details.status in _HAS_ENDED:
                return _exit_code(details)
            time.sleep(PAUSE_S)

    async def _tail(self, name: str, written: "_Written") -> None:
        """Write what comes after what is written already, until the connection ends."""
        seen = 0
        async for text in self._client.tail_job_logs(name):
            written.go_on(text, seen)
            seen += len(text)

    def _attempt(self, name: str) -> str:
        """The name itself, or that of its first attempt that has not failed or been stopped."""
        attempt, number = name, 1
        while (found := self._find(attempt)) and found.status in (
            JobStatus.FAILED,
            JobStatus.STOPPED,
        ):
            number += 1
            attempt = f"{name}-{number}"
        return attempt

    def _find(self, name: str) -> JobDetails | None:
        return next((j for j in self._client.list_jobs() if j.submission_id == name), None)


class _Written:
    """How much of a text was written; a connection that is lost does not lose it."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._length = 0

    def go_on(self, text: str, start: int) -> None:
        """Write what is new of a text that begins at `start` of the whole."""
        new = text[max(0, self._length - start) :]
        self._length = max(self._length, start + len(text))
        if new:
            self._write(new)


def _exit_code(details: JobDetails) -> int:
    if details.status == JobStatus.SUCCEEDED:
        return 0
    return details.driver_exit_code or FAILED


def _check_server(address: str, headers: dict[str, str]) -> None:
    if not address.startswith(("http://", "https://")):
        raise BadInputError(
            f"{address} is no address of a job server; give http://HEAD:8265, the dashboard's."
        )
    try:
        answer = httpx.get(f"{address}/api/version", headers=headers, timeout=ANSWER_TIMEOUT_S)
    except httpx.HTTPError as error:
        raise BadInputError(_no_answer(address, type(error).__name__)) from None
    if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise BadInputError(_wrong_token(address, has_token=bool(headers)))
    try:
        version = answer.json()["ray_version"]
    except (ValueError, KeyError, TypeError):
        raise BadInputError(_no_answer(address, f"HTTP {answer.status_code}")) from None
    if version != ray.__version__:
        raise BadInputError(
            f"The cluster at {address} runs Ray {version} and here is Ray {ray.__version__}; "
            "use an image of this release, or submit from an environment like the cluster's."
        )


def _no_answer(address: str, why: str) -> str:
    return (
        f"No job server of Ray answers at {address} ({why}); give the address of the dashboard, "
        "http://HEAD:8265, and see that it can be reached from here."
    )


def _forgotten(address: str, name: str) -> str:
    return (
        f"The cluster at {address} was started anew and knows no job {name}, which ended with the "
        "old one; start the same command again: it goes on from what is stored."
    )


def _wrong_token(address: str, *, has_token: bool) -> str:
    given = "refuses the token given" if has_token else "asks for a token and none was given"
    return (
        f"The cluster at {address} {given}; set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file "
        "with it, to the cluster's own."
    )
