"""The baseline of recovery: a changelog read from its beginning into RocksDB by bare clients.

    python -m streamsched.bench.bare_replay '{"bootstrap_servers": …}'

A plain copy, key by key: no index, no counts, no fencing, no checks of what is read. Prints one
JSON object with the fields of `Replayed`, measured from before the first request to when the last
row lies in a file. Any error ends it.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from rocksdict import DBCompressionType, Options, Rdict, WriteBatch, WriteOptions

from streamsched.bench.errors import BenchError
from streamsched.cli.errors import EXIT_FAILED, CommandError, say

RECORDS_PER_BATCH_MAX: Final = 5_000
POLL_SECONDS: Final = 1.0
SILENCE_SECONDS_MAX: Final = 30.0
WRITE_BUFFER_BYTES: Final = 64 * 1024 * 1024

CONSUMER_OPTIONS: Final[dict[str, Any]] = {
    "isolation.level": "read_committed",
    "enable.auto.commit": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "error",
    "max.partition.fetch.bytes": 8 * 1024 * 1024,
    "queued.max.messages.kbytes": 64 * 1024,
    "fetch.queue.backoff.ms": 5,
}


_WITHOUT_LOG: Final = WriteOptions()
# The stub has a method of this name; it is a property.
_WITHOUT_LOG.disable_wal = True  # type: ignore[assignment, method-assign]


@dataclass(frozen=True, slots=True)
class Order:
    """What to read, and where the copies go."""

    bootstrap_servers: str
    topic: str
    partitions: int
    folder: str


@dataclass(frozen=True, slots=True)
class Replayed:
    """One reading of the whole log as it measured itself."""

    records: int
    tombstones: int
    """Of these, records that only say that a key is gone."""
    seconds: float
    records_per_second: float
    cpu_us_per_record: float


@dataclass(slots=True)
class Counts:
    """What was read so far."""

    records: int = 0
    tombstones: int = 0


def parameters() -> dict[str, Any]:
    """Everything that is fixed about the baseline, to be printed beside its figures."""
    return {
        "records_per_batch_max": RECORDS_PER_BATCH_MAX,
        "threads": 1,
        "consumer": CONSUMER_OPTIONS,
        "rocksdb": {"write_buffer_bytes": WRITE_BUFFER_BYTES, "compression": "lz4", "wal": False},
    }


def replay(order: Order) -> Replayed:
    """Copy every partition of the topic into a store of its own, up to the end it has now."""
    stores = [_open_store(Path(order.folder) / str(n)) for n in range(order.partitions)]
    cpu_began, began = time.process_time(), time.perf_counter()
    consumer = Consumer(
        {
            **CONSUMER_OPTIONS,
            "bootstrap.servers": order.bootstrap_servers,
            "group.id": "streamsched-bench-replay",
        }
    )
    counts = Counts()
    try:
        consumer.assign([TopicPartition(order.topic, n, 0) for n in range(order.partitions)])
        reading = set(range(order.partitions))
        heard = began
        while reading:
            messages = consumer.consume(RECORDS_PER_BATCH_MAX, POLL_SECONDS)
            if messages:
                heard = time.perf_counter()
            elif time.perf_counter() - heard > SILENCE_SECONDS_MAX:
                raise BenchError(f"no answer from the broker for {SILENCE_SECONDS_MAX:.0f} s")
            _copy(messages, stores, reading, counts)
        for store in stores:
            store.flush()
        seconds = time.perf_counter() - began
        cpu_seconds = time.process_time() - cpu_began
    finally:
        consumer.close()
        for store in stores:
            store.close()
    return Replayed(
        records=counts.records,
        tombstones=counts.tombstones,
        seconds=seconds,
        records_per_second=counts.records / seconds,
        cpu_us_per_record=cpu_seconds * 1e6 / max(counts.records, 1),
    )


def _copy(
    messages: Sequence[Message], stores: Sequence[Rdict], reading: set[int], counts: Counts
) -> None:
    """Write records to their partitions' stores; partitions at their end leave `reading`."""
    batches = [WriteBatch(raw_mode=True) for _ in stores]
    puts = [batch.put for batch in batches]
    records = tombstones = 0
    for message in messages:
        error = message.error()
        partition = message.partition() or 0
        if error is None:
            value = message.value()
            if value is None:
                tombstones += 1
                batches[partition].delete(message.key())  # type: ignore[arg-type]  # never None
            else:
                puts[partition](message.key(), value)  # type: ignore[arg-type]  # as above
            records += 1
        elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
            reading.discard(partition)
        else:
            raise KafkaException(error)
    for store, batch in zip(stores, batches, strict=True):
        if not batch.is_empty():
            store.write(batch, _WITHOUT_LOG)
    counts.records += records
    counts.tombstones += tombstones


def _open_store(path: Path) -> Rdict:
    path.mkdir(parents=True)
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    options.set_compression_type(DBCompressionType.lz4())
    return Rdict(str(path), options)


def main(argument: str) -> int:
    """Do it; the exit status."""
    try:
        replayed = replay(msgspec.json.decode(argument, type=Order))
    except CommandError as error:
        say(str(error))
        return EXIT_FAILED
    sys.stdout.buffer.write(orjson.dumps(replayed))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
