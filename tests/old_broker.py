"""A server that answers the first question of a client as a broker of any age would."""

import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def api_versions(ranges: dict[int, tuple[int, int]], *, number: int = 1, error: int = 0) -> bytes:
    """The answer of a broker that knows these versions of requests, by their keys."""
    body = struct.pack(">ihi", number, error, len(ranges))
    body += b"".join(struct.pack(">hhh", key, *both) for key, both in ranges.items())
    return struct.pack(">i", len(body)) + body


@contextmanager
def server(answer: bytes) -> Iterator[str]:
    """Somebody who reads a request of 14 bytes, answers this, and hangs up; the address."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            asked = self.request.recv(14, socket.MSG_WAITALL)
            # A broker takes the first bytes of TLS for the length of a request.
            if asked[:4] == struct.pack(">i", 10):
                self.request.sendall(answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{running.server_address[1]}"
        finally:
            running.shutdown()
            thread.join()
