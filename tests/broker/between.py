"""Somebody between clients and a Kafka of one node, who can say that there is no broker.

A broker that its controller has lost says so for a moment, when it stands still, is restarted or is
cut off: its list of brokers is empty, and all else of its answer is as ever.
"""

import asyncio
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

METADATA: Final = 3
FLEXIBLE_SINCE: Final = 9
THROTTLE_SINCE: Final = 3


class Between:
    """Hands on what clients and the broker say, on a loop and a thread of its own."""

    def __init__(self, broker_port: int) -> None:
        """Listens from `start` on."""
        self.port = 0
        self.denials = 0
        """Answers without a broker that were given."""
        self._broker_port = broker_port
        self._denies = False
        self._clients: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._listens = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def address(self) -> str:
        """Where clients come, and what the broker has to advertise."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen on a free port."""
        self._thread.start()
        self._listens.wait()

    def stop(self) -> None:
        """Hand on no more."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def deny(self) -> None:
        """Hang up, and say to whoever comes back that there is no broker."""
        self._denies = True
        self._loop.call_soon_threadsafe(self._hang_up)

    def admit(self) -> None:
        """Say again what is."""
        self._denies = False

    def _hang_up(self) -> None:
        for client in self._clients:
            client.transport.abort()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._listen())

    async def _listen(self) -> None:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            self.port = int(server.sockets[0].getsockname()[1])
            self._listens.set()
            await self._over.wait()
            self._hang_up()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_broker, to_broker = await asyncio.open_connection("127.0.0.1", self._broker_port)
        except OSError:
            writer.close()
            return
        versions: dict[bytes, int] = {}
        self._clients.add(writer)
        ways = [
            asyncio.create_task(_hand_on(reader, to_broker, partial(self._note, versions))),
            asyncio.create_task(_hand_on(from_broker, writer, partial(self._answer, versions))),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._clients.discard(writer)
            to_broker.close()
            writer.close()

    def _note(self, versions: dict[bytes, int], request: bytes) -> bytes:
        """A request as it is, with a note of the version in which metadata is asked for."""
        key, version = struct.unpack(">hh", request[:4])
        if key == METADATA:
            versions[request[4:8]] = version
        return request

    def _answer(self, versions: dict[bytes, int], answer: bytes) -> bytes:
        """An answer; one to a question for metadata as it shall be."""
        version = versions.pop(answer[:4], None)
        if version is None or not self._denies:
            return answer
        self.denials += 1
        return without_brokers(answer, version)


async def _hand_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, change: Callable[[bytes], bytes]
) -> None:
    """What one side says to the other, message by message, as `change` makes it."""
    while True:
        message = change(await reader.readexactly(int.from_bytes(await reader.readexactly(4))))
        writer.write(len(message).to_bytes(4) + message)
        await writer.drain()


def without_brokers(answer: bytes, version: int) -> bytes:
    """An answer to a question for metadata, from its correlation id on, with no broker in it."""
    flexible = version >= FLEXIBLE_SINCE
    begin = 4 + flexible + 4 * (version >= THROTTLE_SINCE)
    count, at = _size(answer, begin, flexible=flexible, width=4)
    for _ in range(count):
        at += 4
        length, at = _size(answer, at, flexible=flexible, width=2)
        at += length + 4
        if version >= 1:
            length, at = _size(answer, at, flexible=flexible, width=2)
            at += max(length, 0)
        at += flexible
    none = b"\x01" if flexible else bytes(4)
    return answer[:begin] + none + answer[at:]


def _size(answer: bytes, at: int, *, flexible: bool, width: int) -> tuple[int, int]:
    """How long what comes next is, -1 for null, and where it begins."""
    if not flexible:
        return int.from_bytes(answer[at : at + width], signed=True), at + width
    value = shift = 0
    while True:
        byte = answer[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value - 1, at


@contextmanager
def between(broker_port: int) -> Iterator[Between]:
    """One that listens, before a broker that need not be there yet."""
    it = Between(broker_port)
    it.start()
    try:
        yield it
    finally:
        it.stop()
