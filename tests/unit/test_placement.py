"""murmur2 as Kafka computes it."""

import pytest

from streamsched.core.placement import murmur2, partition_for


@pytest.mark.parametrize(
    ("data", "signed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_vectors_of_kafka(data: bytes, signed: int) -> None:
    """The vectors of `UtilsTest.testMurmur2`, with the sign bit cleared."""
    assert murmur2(data) == signed & 0x7FFFFFFF


def test_partition_is_in_range() -> None:
    """Every partition is used, and none beyond."""
    found = {partition_for(b"tenant-%d" % n, 7) for n in range(500)}
    assert found == set(range(7))
