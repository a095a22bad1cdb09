"""A scheduler process whose partitions are only recorded, driven over its standard streams.

Each event is a JSON line on standard output, each command a JSON line on standard input.
`python -m tests.broker.frame_worker` runs it as `streamsched run` would, and
`faust -A tests.broker.frame_worker worker` as Faust's own command does.
"""

import asyncio
import json
import os
import sys
import threading
import time
from typing import Any

from streamsched.engine.app import create_app
from streamsched.engine.partitions import Ingress, IngressChunk
from streamsched.engine.worker import run_worker, use_uvloop
from streamsched.settings import load_settings

HANG_VARIABLE = "FRAME_WORKER_HANG"
"""`start` or `revoke`: the call of the owner that never returns."""

FOREVER_SECONDS = 3_600


def tell(event: str, **details: object) -> None:
    """Write one event."""
    line = json.dumps({"event": event, "at": time.monotonic(), **details})
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class RecordingOwner:
    """Tells what the frame does with it; every partition is read from its first record."""

    def __init__(self, ingress: Ingress) -> None:
        self.ingress = ingress
        self.full: set[int] = set()
        self.faulty: set[int] = set()
        self.generation = -1
        self.tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Listen for commands from now on."""
        tell("start")
        if os.environ.get(HANG_VARIABLE) == "start":
            await asyncio.sleep(FOREVER_SECONDS)
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._listen, args=(loop,), daemon=True).start()

    async def stop(self) -> None:
        """Tell that it is over."""
        tell("stop")

    async def on_assigned(
        self, partitions: frozenset[int], standbys: frozenset[int], generation: int
    ) -> None:
        """Seek each partition in a task of its own."""
        tell(
            "assigned",
            partitions=sorted(partitions),
            standbys=sorted(standbys),
            generation=generation,
        )
        self.generation = generation
        for partition in partitions:
            self._spawn(self.seek(partition, None))

    async def on_revoked(self, partitions: frozenset[int]) -> None:
        """Check that nothing is owned any more."""
        owned = [p for p in partitions if self.ingress.owns(p, self.generation)]
        tell("revoked", partitions=sorted(partitions), still_owned=owned)
        if os.environ.get(HANG_VARIABLE) == "revoke":
            await asyncio.sleep(FOREVER_SECONDS)

    def room(self, partition: int) -> bool:
        """Whatever the last command said."""
        return partition not in self.full

    async def deliver(self, partition: int, chunk: IngressChunk) -> None:
        """Tell where the chunk begins and ends, and whether its records are in order."""
        if partition in self.faulty:
            raise RuntimeError("told to fail")
        offsets = [record.offset for record in chunk.records]
        tell(
            "chunk",
            partition=partition,
            start=chunk.start,
            end=chunk.end,
            count=len(offsets),
            ordered=offsets == sorted(set(offsets)),
            inside=all(chunk.start <= offset < chunk.end for offset in offsets),
        )
        self.ingress.commit_lazily(partition, chunk.end)

    async def seek(self, partition: int, offset: int | None) -> None:
        """Seek and tell."""
        start = await self.ingress.seek(partition, offset, generation=self.generation)
        tell("sought", partition=partition, offset=start)

    async def ends(self, partition: int) -> None:
        """Tell the offsets of the log."""
        tell(
            "ends",
            partition=partition,
            first=await self.ingress.beginning_offset(partition),
            end=await self.ingress.end_offset(partition),
        )

    def command(self, name: str, partition: int, offset: int | None) -> None:
        """Do one command."""
        match name:
            case "full":
                self.full.add(partition)
            case "room":
                self.full.discard(partition)
                self.ingress.wake()
            case "fail":
                self.faulty.add(partition)
            case "seek":
                self._spawn(self.seek(partition, offset))
            case "ends":
                self._spawn(self.ends(partition))
        tell("did", command=name, partition=partition)

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        for line in sys.stdin:
            order = json.loads(line)
            loop.call_soon_threadsafe(
                self.command, order["command"], order["partition"], order.get("offset")
            )


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(name)
    use_uvloop()
    return create_app(load_settings(), RecordingOwner)


if __name__ == "__main__":
    sys.exit(run_worker(load_settings(), RecordingOwner))
