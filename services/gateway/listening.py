"""The endpoint in this process, as `crucible serve` runs it.

Ray Serve's own HTTP proxy and a replica behind it would cost several times what the endpoint does.
"""

import contextlib
import socket

import uvicorn
from fastapi import FastAPI

from fusion.errors import BadInputError
from fusion.recipe import Endpoint

KEEP_ALIVE_S = 90
GRACE_S = 5


def bound(endpoint: Endpoint) -> socket.socket:
    """A socket at the endpoint's address, which does not listen yet.

    Raises:
        BadInputError: the address is not this machine's, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((endpoint.host, endpoint.port))
    except OSError as error:
        listener.close()
        raise BadInputError(
            f"The endpoint cannot listen on {endpoint.host} port {endpoint.port} "
            f"({error.strerror}); free it, or set endpoint.port to another."
        ) from error
    return listener


def server(app: FastAPI, endpoint: Endpoint) -> uvicorn.Server:
    """The HTTP server of an endpoint, which logs nothing: requests are in the audit log."""
    config = uvicorn.Config(
        app,
        ssl_certfile=endpoint.tls_certificate,
        ssl_keyfile=endpoint.tls_key,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        access_log=False,
        log_config=None,
        log_level="critical",
    )
    return uvicorn.Server(config)


def listen(app: FastAPI, endpoint: Endpoint, listener: socket.socket) -> None:
    """Answer until interrupted; what is under way then has a few seconds to end."""
    with contextlib.suppress(KeyboardInterrupt):
        server(app, endpoint).run(sockets=[listener])
