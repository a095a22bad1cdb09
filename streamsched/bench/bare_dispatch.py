"""The second half of the baseline: stored jobs out to the tenants' topics."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from confluent_kafka import Producer
from rocksdict import Rdict, WriteBatch

from streamsched.bench import bare
from streamsched.bench.errors import BenchError
from streamsched.bench.load import WARM_UP_PREFIX, tenant_names
from streamsched.bench.phase import Phase
from streamsched.core import headers as h
from streamsched.core.names import TopicNames
from streamsched.core.placement import partition_for


async def dispatch(
    bootstrap_servers: str,
    names: TopicNames,
    partitions: int,
    jobs: int,
    folder: Path,
    tenants: int,
    *,
    with_headers: bool = True,
) -> Phase:
    """Send out what `ingest` has stored in `folder`; every egress topic exists already.

    The egress records are those of the scheduler, byte for byte but for the times in them.
    `with_headers` False leaves the six headers out, for comparison. Measured from the first row
    read to the last deletion; before that, each producer has written once to each of its topics,
    as the scheduler has when it is measured.
    """
    loop = asyncio.get_running_loop()
    producers = [
        bare.transactional_producer(bootstrap_servers, f"{names.app_id}-out-{number}")
        for number in range(partitions)
    ]
    stores = [bare.open_store(folder / str(number)) for number in range(partitions)]
    _touch(producers, names, tenant_names(tenants, partitions))
    phase = Phase(jobs)

    async def work(number: int) -> None:
        producer, store = producers[number], stores[number]
        start = b""
        while True:
            rows = _read(store, start)
            if not rows:
                return
            phase.begin()
            producer.begin_transaction()
            _produce(producer, names, number, rows, with_headers=with_headers)
            await loop.run_in_executor(None, producer.commit_transaction, bare.COMMIT_SECONDS_MAX)
            _delete(store, rows)
            # Goes on behind the last row read, so that it never wades through deletions.
            start = rows[-1][0] + b"\x00"
            phase.add(len(rows))

    try:
        async with asyncio.timeout(phase.seconds_max()):
            await asyncio.gather(*(work(number) for number in range(partitions)))
    except TimeoutError as error:
        raise BenchError(
            f"the baseline sent out {phase.done} of {jobs} jobs and no more: "
            "see whether the broker is well"
        ) from error
    finally:
        for store in stores:
            store.close()
    if phase.done != jobs:
        raise BenchError(f"the baseline found {phase.done} of {jobs} jobs in its stores")
    return phase


def _touch(producers: Sequence[Producer], names: TopicNames, tenants: Sequence[str]) -> None:
    """Write one record to every egress topic, from the producer that will write to it later."""
    for producer in producers:
        producer.begin_transaction()
    for tenant in tenants:
        owner = partition_for(tenant.encode(), len(producers))
        producers[owner].produce(names.egress(tenant), b"", WARM_UP_PREFIX + tenant, 0)
    for producer in producers:
        producer.commit_transaction(bare.COMMIT_SECONDS_MAX)


def _read(store: Rdict, start: bytes) -> list[tuple[bytes, bytes]]:
    rows = []
    iterator = store.iter()
    iterator.seek(start)
    for _ in range(bare.JOBS_PER_TRANSACTION_MAX):
        if not iterator.valid():
            break
        rows.append((iterator.key(), iterator.value()))
        iterator.next()
    return rows


def _produce(
    producer: Producer,
    names: TopicNames,
    partition: int,
    rows: Sequence[tuple[bytes, bytes]],
    *,
    with_headers: bool,
) -> None:
    """Send each job to its tenant's topic, and a tombstone after it."""
    produce = producer.produce
    changelog = names.changelog
    unpack, head_bytes = bare.ROW.unpack_from, bare.ROW.size
    topics: dict[bytes, str] = {}
    now_ms = time.time_ns() // 1_000_000
    now_text = b"%d" % now_ms
    for _, row in rows:
        due_ms, offset, source_partition, tenant_bytes, id_bytes = unpack(row)
        id_at = head_bytes + tenant_bytes
        tenant = row[head_bytes:id_at]
        job_id = row[id_at : id_at + id_bytes]
        topic = topics.get(tenant)
        if topic is None:
            topic = topics[tenant] = names.egress(tenant.decode())
        headers: list[tuple[str, str | bytes | None]] | None = None
        if with_headers:
            headers = [
                (h.ID, job_id),
                (h.TENANT, tenant),
                (h.DUE_AT, b"%d" % due_ms),
                (h.DISPATCHED_AT, now_text),
                (h.OCCURRENCE, b"0"),
                (h.SOURCE, b"%d-%d" % (source_partition, offset)),
            ]
        produce(topic, row[id_at + id_bytes :], job_id, 0, timestamp=now_ms, headers=headers)
        produce(changelog, None, tenant + b"\x00" + job_id, partition)


def _delete(store: Rdict, rows: Sequence[tuple[bytes, bytes]]) -> None:
    batch = WriteBatch(raw_mode=True)
    delete = batch.delete
    for key, _ in rows:
        delete(key)
    store.write(batch)
