"""What the two halves of the baseline share: its fixed parameters, producers and rows.

The baseline does the scheduler's work with bare clients: no settings, rates, fairness, cancels,
checks of what comes in, nor recovery from failures. Any error ends it.

    row     key    due_ms (8)  ingress offset (8)             big-endian: due order
            value  due_ms (8)  offset (8)  partition (4)  length of tenant (1)  length of id (1)
                   tenant  id  payload
"""

import struct
from pathlib import Path
from typing import Any, Final

from confluent_kafka import Producer
from rocksdict import DBCompressionType, Options, Rdict

INGRESS_RECORDS_PER_TRANSACTION_MAX: Final = 4_000
JOBS_PER_TRANSACTION_MAX: Final = 4_000
COMMIT_SECONDS_MAX: Final = 30.0
IDLE_SECONDS_MAX: Final = 30.0
"""Without one record for so long, the baseline gives up."""

CONSUMER_OPTIONS: Final[dict[str, Any]] = {
    "isolation_level": "read_committed",
    "enable_auto_commit": False,
    "auto_offset_reset": "earliest",
    "fetch_max_wait_ms": 100,
    "max_partition_fetch_bytes": 1_310_720,
}

PRODUCER_OPTIONS: Final[dict[str, Any]] = {
    "compression.type": "none",
    "linger.ms": 20,
    "batch.size": 500_000,
    "batch.num.messages": 100_000,
    "queue.buffering.max.messages": 200_000,
    "queue.buffering.max.kbytes": 1_048_576,
    "delivery.report.only.error": True,
    "allow.auto.create.topics": False,
    "transaction.timeout.ms": 60_000,
}

WRITE_BUFFER_BYTES: Final = 64 * 1024 * 1024

KEY: Final = struct.Struct(">QQ")
ROW: Final = struct.Struct(">QQIBB")


def parameters() -> dict[str, Any]:
    """Everything that is fixed about the baseline, to be printed beside its figures."""
    return {
        "ingress_records_per_transaction_max": INGRESS_RECORDS_PER_TRANSACTION_MAX,
        "jobs_per_transaction_max": JOBS_PER_TRANSACTION_MAX,
        "event_loop": "uvloop",
        "json": "orjson",
        "consumer": CONSUMER_OPTIONS,
        "producer": PRODUCER_OPTIONS,
        "rocksdb": {"write_buffer_bytes": WRITE_BUFFER_BYTES, "compression": "lz4", "wal": True},
    }


def transactional_producer(bootstrap_servers: str, transactional_id: str) -> Producer:
    """A producer that is ready to begin its first transaction."""
    producer = Producer(
        {
            **PRODUCER_OPTIONS,
            "bootstrap.servers": bootstrap_servers,
            "transactional.id": transactional_id,
        }
    )
    producer.init_transactions(COMMIT_SECONDS_MAX)
    return producer


def open_store(path: Path) -> Rdict:
    """The store of one partition: raw bytes, one family, rows in due order."""
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    options.set_compression_type(DBCompressionType.lz4())
    return Rdict(str(path), options)
