"""The jobs of the benchmarks, and the bare clients that they are compared with."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from streamsched.bench import bare_dispatch, bare_ingest
from streamsched.bench.load import JOB_BYTES, Load, envelope, is_warm_up, tenant_names
from streamsched.core import headers as h
from streamsched.core.placement import partition_for
from streamsched.testing import Driver
from streamsched.testing.driver import START_MS, Record


class Recorder:
    """Takes what would be produced."""

    def __init__(self) -> None:
        """Empty."""
        self.sent: list[tuple[str, bytes | None, bytes, int]] = []
        self.headers: list[Any] = []

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes,
        partition: int,
        *,
        timestamp: int = 0,
        headers: Any = None,
    ) -> None:
        """Keep one record."""
        del timestamp
        self.sent.append((topic, value, key, partition))
        self.headers.append(headers)


@pytest.mark.parametrize("due_at_ms", [100_000_000_000, 1_800_000_000_000])
@pytest.mark.parametrize("job_id", ["a", "job-000000001", "warm-up-000000001"])
def test_every_job_has_the_size_that_is_claimed(job_id: str, due_at_ms: int) -> None:
    """Ids and times of any length are filled up to the same number of bytes."""
    assert len(envelope(job_id, due_at_ms)) == JOB_BYTES


@pytest.mark.parametrize(("tenants", "partitions"), [(8, 4), (200, 4), (7, 4), (1, 4), (5, 1)])
def test_partitions_own_equally_many_tenants(tenants: int, partitions: int) -> None:
    """No partition owns two tenants more than another."""
    names = tenant_names(tenants, partitions)
    assert len(set(names)) == tenants
    owned = Counter(partition_for(name.encode(), partitions) for name in names)
    counts = [owned[number] for number in range(partitions)]
    assert max(counts) - min(counts) <= 1


def test_jobs_fall_due_evenly_over_the_spread() -> None:
    """The first job is due at the due time, the last one just before the spread is over."""
    load = Load(jobs=2_000, tenants=8, partitions=4, due_at_ms=START_MS, spread_ms=1_000)
    assert load.due_of(0) == START_MS
    assert load.due_of(1_999) == START_MS + 999
    assert Counter(load.due_of(i) for i in range(2_000)) == dict.fromkeys(
        range(START_MS, START_MS + 1_000), 2
    )


def test_warm_up_has_one_job_for_each_tenant() -> None:
    """Its jobs are told from those that are measured by their id."""
    load = Load(jobs=100, tenants=8, partitions=4, due_at_ms=START_MS)
    driver = Driver(partitions=4)
    for key, value in load.warm_up(driver.now_ms).records():
        driver.pipe(Record(key, value))
    driver.settle()
    for tenant in tenant_names(8, 4):
        [job] = driver.read_egress(tenant)
        assert is_warm_up(job.key)
    assert not is_warm_up(b"job-000000001")


def test_baseline_sends_what_the_scheduler_sends() -> None:
    """Bare clients write the same topics, keys, values, headers and tombstones for a job."""
    load = Load(jobs=40, tenants=8, partitions=1, due_at_ms=START_MS + 1_000)
    driver = Driver()
    records = []
    for key, value in load.records():
        _, offset = driver.pipe(Record(key, value))
        records.append(replace(Record(key, value), offset=offset))
    driver.settle()
    driver.advance(1_000)
    expected = {
        (record.topic, record.value, record.key, tuple(_without_time(record.headers)))
        for tenant in tenant_names(8, 1)
        for record in driver.read_egress(tenant)
    }

    taken: Any = Recorder()
    sent: Any = Recorder()
    rows = bare_ingest._produce(taken, driver.names.changelog, 0, records)
    bare_dispatch._produce(sent, driver.names, 0, rows, with_headers=True)

    egress = [
        (topic, value, key, tuple(_without_time(headers)))
        for (topic, value, key, _), headers in zip(sent.sent, sent.headers, strict=True)
        if value is not None
    ]
    assert len(egress) == len(expected) == load.jobs
    assert set(egress) == expected
    logged = {(topic, key) for topic, _, key, _ in taken.sent}
    assert {(topic, key) for topic, value, key, _ in sent.sent if value is None} == logged
    assert logged == {
        (driver.names.changelog, key + b"\x00" + f"job-{number:09d}".encode())
        for number, (key, _) in enumerate(load.records())
    }


def test_baseline_keeps_rows_in_due_order() -> None:
    """Rows are keyed so that a scan of the store meets the earliest due time first."""
    carry_ms = 2**40
    early = Record(b"acme", envelope("a", carry_ms - 1), offset=2**40)
    late = Record(b"acme", envelope("b", carry_ms), offset=1)
    recorder: Any = Recorder()
    rows = bare_ingest._produce(recorder, "changelog", 0, [late, early])
    assert [row[0] for row in sorted(rows)] == [rows[1][0], rows[0][0]]


def _without_time(headers: Any) -> list[tuple[str, bytes | None]]:
    """Headers without the moment of dispatch, which differs between two runs."""
    return [(name, value) for name, value in headers if name != h.DISPATCHED_AT]
