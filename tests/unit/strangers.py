"""Servers on loopback that are no sshd: silent, closing at once, talking of something else."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

WORDS = {
    "garbage": b"HTTP/1.1 400 Bad Request\r\nServer: none\r\n\r\n",
    "greets": b"SSH-2.0-OpenSSH_9.2\r\n",
}


@contextmanager
def stranger(kind: str) -> Iterator[int]:
    """The port of a server that is `silent`, `closes`, says `garbage`, or `greets` and says no more."""
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = server.accept()
                    held.append(client)
                    with suppress(OSError):
                        client.sendall(WORDS.get(kind, b""))
                        if kind == "closes":
                            client.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for client in held:
                client.close()
