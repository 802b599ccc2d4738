"""A way to a real S3 server that can be made to fail: errors, resets, and answers cut in half."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

_ERROR = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time: close sends a reset


class FlakyWay:
    """Passes bytes on to `port` and back; `fault` is None, "error", "reset" or "cut"."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.fault: str | None = None
        self.refused = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.getsockname()[1]}"

    @contextlib.contextmanager
    def failing(self, fault: str) -> Iterator[None]:
        """Fail every request, those of connections that are open already included."""
        self._begin(fault)
        try:
            yield
        finally:
            self.fault = None

    def fail_for(self, fault: str, seconds: float) -> None:
        """Begin to fail now, and stop by itself."""
        self._begin(fault)
        threading.Timer(seconds, lambda: setattr(self, "fault", None)).start()

    def close(self) -> None:
        self._server.close()
        self._reset_all()

    def _begin(self, fault: str) -> None:
        self.fault = fault
        self._reset_all()

    def _reset_all(self) -> None:
        for connection in list(self._open):
            _reset(connection)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        if self.fault in ("error", "reset"):
            self.refused += 1
            with contextlib.suppress(OSError):
                if self.fault == "error":
                    connection.recv(1 << 16)
                    connection.sendall(_ERROR)
                    connection.close()
            _reset(connection)
            return
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self._target)) as target,
        ):
            self._open |= {connection, target}
            threading.Thread(target=_pass_on, args=[connection, target], daemon=True).start()
            if self.fault == "cut":
                self.refused += 1
                connection.sendall(target.recv(1 << 16)[:400])
            else:
                _pass_on(target, connection)
        _reset(connection)
        self._open -= {connection, target}


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _reset(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        connection.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        connection.close()
