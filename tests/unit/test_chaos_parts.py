"""Parts of the chaos tests that need no Kafka."""

import random
from pathlib import Path

from tests.chaos.faults import all_faults
from tests.chaos.state_faults import FLIP_EVERY_BYTES, _flip
from tests.chaos.test_chaos import ONE_NODE, THREE_NODES
from tests.chaos.world import java_hash


def test_coordinators_are_found_as_kafka_finds_them() -> None:
    """The hash of Java's strings, without its sign."""
    assert java_hash("hello") == 99_162_322
    assert java_hash("Aa") == java_hash("BB") == 2_112
    assert java_hash("streamsched-0") < 2**31
    assert java_hash("") == 0


def test_every_kind_that_is_chosen_from_has_faults() -> None:
    """The short runs draw from kinds; each has a fault that their cluster can suffer."""
    faults = all_faults(1.0)
    for kinds, nodes in ((ONE_NODE, 1), (THREE_NODES, 3)):
        assert set(kinds) <= {fault.kind for fault in faults if fault.nodes_min <= nodes}
    assert len({fault.name for fault in faults}) == len(faults)


def test_flipped_files_differ_in_the_bits_that_are_counted(tmp_path: Path) -> None:
    """Only the files that are named, and nothing of their size."""
    (tmp_path / "0").mkdir()
    whole = bytes(range(256)) * 40
    for name in ("1.sst", "2.log"):
        (tmp_path / "0" / name).write_bytes(whole)
    flipped = _flip(random.Random(1), tmp_path, "*.sst")
    assert list(flipped) == ["0/1.sst"]
    damaged = (tmp_path / "0" / "1.sst").read_bytes()
    assert len(damaged) == len(whole)
    differing = sum(a != b for a, b in zip(whole, damaged, strict=True))
    assert differing == flipped["0/1.sst"] > len(whole) // FLIP_EVERY_BYTES // 2
    assert (tmp_path / "0" / "2.log").read_bytes() == whole
