"""The first half of the baseline: ingress records into changelog and store."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from confluent_kafka import Producer
from rocksdict import Rdict, WriteBatch

from streamsched.bench import bare
from streamsched.bench.errors import BenchError
from streamsched.bench.phase import Phase
from streamsched.core.names import TopicNames


async def ingest(
    bootstrap_servers: str, names: TopicNames, partitions: int, jobs: int, folder: Path
) -> Phase:
    """Take `jobs` records off the ingress topic, which holds them already.

    Measured from the first chunk received to the last one stored.
    """
    loop = asyncio.get_running_loop()
    producers = [
        bare.transactional_producer(bootstrap_servers, f"{names.app_id}-in-{number}")
        for number in range(partitions)
    ]
    stores = [bare.open_store(folder / str(number)) for number in range(partitions)]
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap_servers, **bare.CONSUMER_OPTIONS)
    await consumer.start()
    phase = Phase(jobs)
    try:
        consumer.assign([TopicPartition(names.jobs, number) for number in range(partitions)])

        async def work(number: int) -> None:
            topic_partition = TopicPartition(names.jobs, number)
            producer, store = producers[number], stores[number]
            while not phase.is_done():
                fetched = await consumer.getmany(
                    topic_partition,
                    timeout_ms=100,
                    max_records=bare.INGRESS_RECORDS_PER_TRANSACTION_MAX,
                )
                records = fetched.get(topic_partition)
                if not records:
                    continue
                phase.begin()
                producer.begin_transaction()
                rows = _produce(producer, names.changelog, number, records)
                await loop.run_in_executor(
                    None, producer.commit_transaction, bare.COMMIT_SECONDS_MAX
                )
                _store(store, rows)
                phase.add(len(records))

        async with asyncio.timeout(phase.seconds_max()):
            await asyncio.gather(*(work(number) for number in range(partitions)))
    except TimeoutError as error:
        raise BenchError(
            f"the baseline took in {phase.done} of {jobs} jobs and no more: "
            f"see whether {names.jobs} holds them all"
        ) from error
    finally:
        await consumer.stop()
        for store in stores:
            store.close()
    return phase


def _produce(
    producer: Producer, changelog: str, partition: int, records: Sequence[Any]
) -> list[tuple[bytes, bytes]]:
    """Decode the chunk and send one changelog record for each job; the rows to store."""
    loads, dumps = orjson.loads, orjson.dumps
    pack_key, pack_row = bare.KEY.pack, bare.ROW.pack
    produce = producer.produce
    rows = []
    for record in records:
        job = loads(record.value)
        job_id = job["id"].encode()
        tenant = record.key
        due_ms = job["due_at"]
        offset = record.offset
        row = b"".join(
            (
                pack_row(due_ms, offset, partition, len(tenant), len(job_id)),
                tenant,
                job_id,
                dumps(job["payload"]),
            )
        )
        produce(changelog, row, tenant + b"\x00" + job_id, partition)
        rows.append((pack_key(due_ms, offset), row))
    return rows


def _store(store: Rdict, rows: Sequence[tuple[bytes, bytes]]) -> None:
    batch = WriteBatch(raw_mode=True)
    put = batch.put
    for key, row in rows:
        put(key, row)
    store.write(batch)
