"""The buffer between fetching and cycles: continuous, bounded in records and in bytes."""

import random

from streamsched.core.limits import CYCLE_BYTES_MAX, INGRESS_RECORDS_PER_CYCLE_MAX
from streamsched.engine.ingress_buffer import (
    BUFFERED_BYTES_MAX,
    BUFFERED_RECORDS_MAX,
    IngressBuffer,
)
from streamsched.engine.partitions import IngressChunk
from streamsched.testing import Record


def chunk(start: int, count: int, size: int = 1, gap: int = 1) -> IngressChunk:
    """Records from `start` on, then a gap such as transaction markers leave."""
    records = [Record(value=b"x" * size, timestamp=0, offset=start + i) for i in range(count)]
    return IngressChunk(0, 1, start, start + count + gap, records)


def test_nothing_waits_at_first() -> None:
    """An empty buffer has room and no chunk."""
    buffer = IngressBuffer()
    assert not buffer
    assert buffer.has_room
    assert buffer.take() is None


def test_every_record_comes_out_once_in_order_and_without_a_hole(rng: random.Random) -> None:
    """Whatever the sizes of the chunks, cycles get a continuous line within their bound."""
    buffer = IngressBuffer()
    offset, expected = 0, []
    for _ in range(30):
        one = chunk(offset, rng.randrange(0, 3 * INGRESS_RECORDS_PER_CYCLE_MAX // 2))
        expected += [record.offset for record in one.records]
        buffer.put(one)
        offset = one.end
    position, seen = 0, []
    while (taken := buffer.take()) is not None:
        assert taken.from_offset == position
        assert len(taken.records) <= INGRESS_RECORDS_PER_CYCLE_MAX
        position = taken.next_offset
        seen += [record.offset for record in taken.records]
    assert seen == expected
    assert position == offset
    assert buffer.has_room


def test_records_fill_it() -> None:
    """At the bound on records nothing more is wanted, until a cycle has taken some."""
    buffer = IngressBuffer()
    buffer.put(chunk(0, BUFFERED_RECORDS_MAX))
    assert not buffer.has_room
    buffer.take()
    assert buffer.has_room


def test_bytes_fill_it_and_close_a_cycle() -> None:
    """Few large records count as much as many small ones."""
    buffer = IngressBuffer()
    size = CYCLE_BYTES_MAX // 8
    for number in range(BUFFERED_BYTES_MAX // size):
        assert buffer.has_room
        buffer.put(chunk(number, 1, size, gap=0))
    assert not buffer.has_room
    taken = buffer.take()
    assert taken is not None
    assert sum(len(record.value or b"") for record in taken.records) == CYCLE_BYTES_MAX


def test_bytes_of_keys_and_headers_fill_it_too() -> None:
    """A job in header mode may be large without a value."""
    buffer = IngressBuffer()
    half = BUFFERED_BYTES_MAX // 2
    records = [Record(b"k" * (half - 1), b"", [("x", b"")], offset=0)]
    buffer.put(IngressChunk(0, 1, 0, 1, records))
    assert (buffer.held_bytes, buffer.has_room) == (half, True)
    records = [Record(b"", None, [("name", b"v" * (half - 4))], offset=1)]
    buffer.put(IngressChunk(0, 1, 1, 2, records))
    assert not buffer.has_room
    while buffer.take() is not None:
        pass
    assert buffer.held_bytes == 0


def test_one_chunk_of_many_bytes_is_split_into_cycles() -> None:
    """Records that were compressed well do not become one transaction of hundreds of MiB."""
    buffer = IngressBuffer()
    size, count = CYCLE_BYTES_MAX // 8, 27
    buffer.put(chunk(0, 3))
    buffer.put(chunk(4, count, size))
    lengths, position = [], 0
    while (taken := buffer.take()) is not None:
        assert taken.from_offset == position
        position = taken.next_offset
        lengths.append(len(taken.records))
    assert lengths == [3 + 8, 8, 8, 3]
    assert position == 4 + count + 1
    assert buffer.held_bytes == 0


def test_a_chunk_without_records_moves_the_position() -> None:
    """Markers alone are told, or a reader that waits for the end would wait for ever."""
    buffer = IngressBuffer()
    buffer.put(IngressChunk(0, 1, 5, 9, []))
    taken = buffer.take()
    assert taken is not None
    assert (taken.from_offset, taken.next_offset, list(taken.records)) == (5, 9, [])
