"""Ingress records of one partition between being fetched and being taken into a cycle."""

from collections import deque
from typing import Any, Final

from streamsched.core.cycle import Chunk
from streamsched.core.limits import CYCLE_BYTES_MAX, INGRESS_RECORDS_PER_CYCLE_MAX
from streamsched.engine.partitions import IngressChunk

BUFFERED_RECORDS_MAX: Final = 2 * INGRESS_RECORDS_PER_CYCLE_MAX
"""Ingress records of a partition that wait in memory; above it nothing more is fetched."""

BUFFERED_BYTES_MAX: Final = 2 * CYCLE_BYTES_MAX
"""The same in bytes of values. One chunk more can come on top, which is what one fetch brings."""


class IngressBuffer:
    """Chunks as they were fetched; they are joined and split to the bound of a cycle."""

    def __init__(self) -> None:
        """Nothing was fetched yet."""
        self._chunks: deque[IngressChunk] = deque()
        self._records = 0
        self._bytes = 0

    def __bool__(self) -> bool:
        """Whether anything waits, if only to tell that the position went on."""
        return bool(self._chunks)

    @property
    def held_bytes(self) -> int:
        """Values of the records that wait."""
        return self._bytes

    @property
    def has_room(self) -> bool:
        """Whether another chunk is wanted."""
        return self._records < BUFFERED_RECORDS_MAX and self._bytes < BUFFERED_BYTES_MAX

    def put(self, chunk: IngressChunk) -> None:
        """Queue a chunk that starts where the one before ended."""
        self._chunks.append(chunk)
        self._count(chunk, 1)

    def clear(self) -> None:
        """Forget everything; it is read again."""
        self._chunks.clear()
        self._records = self._bytes = 0

    def take(self) -> Chunk | None:
        """The records for one cycle, `None` where nothing waits."""
        if not self._chunks:
            return None
        start = end = self._chunks[0].start
        records: list[Any] = []
        room = INGRESS_RECORDS_PER_CYCLE_MAX
        bytes_before = self._bytes
        while self._chunks and room > 0 and bytes_before - self._bytes < CYCLE_BYTES_MAX:
            chunk = self._chunks.popleft()
            self._count(chunk, -1)
            taken, left = chunk.records[:room], chunk.records[room:]
            records.extend(taken)
            room -= len(taken)
            end = left[0].offset if left else chunk.end
            if left:
                rest = IngressChunk(chunk.partition, chunk.generation, end, chunk.end, left)
                self._chunks.appendleft(rest)
                self._count(rest, 1)
        return Chunk(start, end, records)

    def _count(self, chunk: IngressChunk, sign: int) -> None:
        self._records += sign * len(chunk.records)
        self._bytes += sign * sum([len(record.value or b"") for record in chunk.records])
