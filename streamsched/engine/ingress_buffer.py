"""Ingress records of one partition between being fetched and being taken into a cycle."""

from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, Final

from streamsched.core.cycle import Chunk
from streamsched.core.limits import CYCLE_BYTES_MAX, INGRESS_RECORDS_PER_CYCLE_MAX
from streamsched.engine.partitions import IngressChunk

BUFFERED_RECORDS_MAX: Final = 2 * INGRESS_RECORDS_PER_CYCLE_MAX
"""Ingress records of a partition that wait in memory; above it nothing more is fetched."""

BUFFERED_BYTES_MAX: Final = 2 * CYCLE_BYTES_MAX
"""The same in bytes of keys, values and headers. One chunk more can come on top, which is what one
look at the reader brings: `CYCLE_BYTES_MAX` and what its last step adds."""


def unpacked_bytes(record: Any) -> int:
    """Key, value and headers of an ingress record, as they are in memory."""
    found = len(record.value or b"") + len(record.key or b"")
    if record.headers:
        for name, value in record.headers:
            found += len(name) + len(value or b"")
    return found


class IngressBuffer:
    """Chunks as they were fetched; they are joined and split to the bound of a cycle."""

    def __init__(self) -> None:
        """Nothing was fetched yet."""
        self._chunks: deque[tuple[IngressChunk, int]] = deque()
        """With the bytes of each, so that records are counted once."""
        self._records = 0
        self._bytes = 0

    def __bool__(self) -> bool:
        """Whether anything waits, if only to tell that the position went on."""
        return bool(self._chunks)

    @property
    def held_bytes(self) -> int:
        """Keys, values and headers of the records that wait."""
        return self._bytes

    @property
    def has_room(self) -> bool:
        """Whether another chunk is wanted."""
        return self._records < BUFFERED_RECORDS_MAX and self._bytes < BUFFERED_BYTES_MAX

    def put(self, chunk: IngressChunk) -> None:
        """Queue a chunk that starts where the one before ended."""
        self._keep(chunk, self._chunks.append)

    def clear(self) -> None:
        """Forget everything; it is read again."""
        self._chunks.clear()
        self._records = self._bytes = 0

    def take(self) -> Chunk | None:
        """The records for one cycle, `None` where nothing waits."""
        if not self._chunks:
            return None
        start = end = self._chunks[0][0].start
        records: list[Any] = []
        room, room_bytes = INGRESS_RECORDS_PER_CYCLE_MAX, CYCLE_BYTES_MAX
        while self._chunks and room > 0 and room_bytes > 0:
            chunk, chunk_bytes = self._chunks.popleft()
            self._records -= len(chunk.records)
            self._bytes -= chunk_bytes
            count = room
            if chunk_bytes > room_bytes:
                count = min(room, _fitting(chunk.records, room_bytes))
            taken, left = chunk.records[:count], chunk.records[count:]
            records.extend(taken)
            room -= len(taken)
            end = left[0].offset if left else chunk.end
            room_bytes -= chunk_bytes
            if left:
                rest = IngressChunk(chunk.partition, chunk.generation, end, chunk.end, left)
                self._keep(rest, self._chunks.appendleft)
                break
        return Chunk(start, end, records)

    def _keep(self, chunk: IngressChunk, queue: Callable[[tuple[IngressChunk, int]], None]) -> None:
        chunk_bytes = sum([unpacked_bytes(record) for record in chunk.records])
        queue((chunk, chunk_bytes))
        self._records += len(chunk.records)
        self._bytes += chunk_bytes


def _fitting(records: Sequence[Any], bytes_max: int) -> int:
    """How many of the first records it takes to have `bytes_max` bytes; all, if fewer."""
    sizes = accumulate(unpacked_bytes(record) for record in records)
    return next((n for n, size in enumerate(sizes, 1) if size >= bytes_max), len(records))
