"""The guard before every route: keys, limits and the body's bounds, checked before it is parsed."""

import asyncio
import logging
import re
import time
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fusion.recipe.running import LOOPBACK
from services.gateway.accounts import Account
from services.gateway.desk import Desk, Visit
from services.gateway.refusals import RefusedError

OPEN = frozenset({"/", "/healthz", "/readyz", "/openapi.json"})
OPEN_FOLDER = "/page/"
# Serve's proxy obeys these two; with the first a client that hangs up would keep its place.
NOT_TAKEN = (b"x-request-disconnect-disabled", b"x-request-timeout-seconds")
ON_ALL = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))
ABANDONED = 499
REQUEST_ID = re.compile(r"^[A-Za-z0-9-]{1,64}$")
log = logging.getLogger("ray.serve")


class Guard:
    """Lets a request through to the routes, or answers it; and enters it into the books."""

    def __init__(self, app: ASGIApp, desk: Desk) -> None:
        self._app = app
        self._desk = desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        account = Account(key=None, path="other", client=_client(scope))
        if given := _header(scope, b"x-request-id"):
            account.request_id = given if REQUEST_ID.match(given) else account.request_id
        answer = _Answer(account, send)
        with ExitStack() as held:
            held.callback(self._settle, scope, account)
            try:
                await self._admit(scope, account, held)
                body = await self._body(scope, receive)
                scope.setdefault("state", {})["visit"] = Visit(self._desk, account, held)
                await self._app(scope, _replay(body, receive), answer.send)
            except RefusedError as error:
                await error.response()(scope, receive, answer.send)
            except Exception as error:  # nothing of a request may reach the logs but this
                log.error("A request failed (%s).", _where(error))
                if account.status:
                    raise
                refused = RefusedError(500, "The endpoint failed; the log says where.")
                await refused.response()(scope, receive, answer.send)

    async def _admit(self, scope: Scope, account: Account, held: ExitStack) -> None:
        if any(name in NOT_TAKEN for name, _ in scope["headers"]):
            raise RefusedError(400, "Remove the headers x-request-...; they are not taken here.")
        if _is_open(scope):
            return
        if not self._desk.doorkeeper.needs_key and not _is_to_loopback(scope):
            # a web page whose name was pointed at this machine would ask with the user's browser
            raise RefusedError(403, "Without keys, ask at 127.0.0.1 or localhost by that name.")
        account.key = self._desk.doorkeeper.admit(scope["headers"])
        if account.key and scope["method"] == "POST":
            held.enter_context(self._desk.allowances.admitted(account.key, time.monotonic()))

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        if scope["method"] != "POST":
            return b""
        most = self._desk.limits.body_bytes
        if (_header(scope, b"content-type") or "").partition(";")[0].strip() != "application/json":
            raise RefusedError(415, "Send JSON, with the header Content-Type: application/json.")
        length = _header(scope, b"content-length") or "0"
        if not length.isdecimal():
            raise RefusedError(400, "The header Content-Length is no number.")
        body = bytearray()
        try:
            async with asyncio.timeout(self._desk.limits.body_timeout_s):
                more = int(length[:19]) <= most
                while more and len(body) <= most:
                    message = await receive()
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
        except TimeoutError:
            raise RefusedError(
                408, f"The body did not arrive within {self._desk.limits.body_timeout_s:g} s."
            ) from None
        if int(length[:19]) > most or len(body) > most:
            raise RefusedError(413, f"The body is larger than the {most:,} bytes taken here.")
        return bytes(body)

    def _settle(self, scope: Scope, account: Account) -> None:
        route = scope.get("route")
        account.path = getattr(route, "path", account.path)
        account.status = account.status or ABANDONED
        self._desk.settle(account)


class _Answer:
    """Notes the status of an answer, and adds the headers that all have."""

    def __init__(self, account: Account, send: Send) -> None:
        self._account = account
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._account.status = message["status"]
            headers = list(message.get("headers", []))
            given = {name for name, _ in headers}
            added = [(name, value) for name, value in ON_ALL if name not in given]
            message = {**message, "headers": headers + added}
        await self._send(message)


def _is_open(scope: Scope) -> bool:
    path = scope["path"]
    return scope["method"] in ("GET", "HEAD") and (path in OPEN or path.startswith(OPEN_FOLDER))


def _is_to_loopback(scope: Scope) -> bool:
    try:
        return urlsplit(f"//{_header(scope, b'host') or ''}").hostname in LOOPBACK
    except ValueError:
        return False


def _header(scope: Scope, name: bytes) -> str | None:
    found = [value for key, value in scope["headers"] if key == name]
    return found[0].decode("latin-1") if found else None


def _client(scope: Scope) -> str:
    return str(scope["client"][0]) if scope.get("client") else ""


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body that was read, then what the server says next."""
    messages: list[Any] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return messages.pop() if messages else await receive()

    return next_message


def _where(error: BaseException) -> str:
    """An exception's type and place, without its text, which may quote a prompt."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "?"
    return f"{type(error).__name__} at {place}"
