"""Bad records between good ones: refused by name, kept untouched, and nobody is held up."""

import asyncio
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.producer import message_accumulator, producer
from aiokafka.record import default_records
from confluent_kafka import TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from streamsched.core import headers as h
from streamsched.core.limits import JOB_BYTES_MAX
from streamsched.core.placement import partition_for
from streamsched.core.rejection import Reason
from streamsched.engine.kafka_options import aiokafka_options
from tests.broker.installation import Installation, installed
from tests.broker.reading import header, headers_of, job_id, read_events
from tests.broker.sending import Sender, tenants_of
from tests.connecting import client_settings

PARTITION = 2
SECONDS = int(time.time())
FAR = (SECONDS + 20 * 366 * 86_400) * 1_000
GOOD = b"1"
DUE = (h.DUE_AT, b"%d000" % SECONDS)

Headers = Sequence[tuple[str, bytes | None]]


@dataclass(frozen=True)
class Bad:
    """A record that is refused for `reason`."""

    reason: Reason
    value: bytes | None = GOOD
    headers: Headers = ()
    key: bytes | None = b"refused"
    timestamp_ms: int = 0


def envelope(reason: Reason, record_key: bytes | None = b"refused", **fields: object) -> Bad:
    """A bad envelope: a good one with `fields` changed, those that are `...` left out."""
    body = {"id": "bad", "delay_ms": 0, "payload": 1, **fields}
    kept = {name: value for name, value in body.items() if value is not ...}
    return Bad(reason, json.dumps(kept).encode(), [("own", b"\xff"), ("own", None)], record_key)


def marked(reason: Reason, *marks: tuple[str, bytes | None], value: bytes | None = GOOD) -> Bad:
    """A bad record in header mode."""
    return Bad(reason, value, [("own", b"\x00"), *marks, ("own", b"")])


ID = (h.ID, b"bad")
BAD = [
    Bad(Reason.NOT_UTF8, b'{"id":"\xff"}'),
    Bad(Reason.NOT_JSON, b"{"),
    Bad(Reason.NOT_JSON, b""),
    Bad(Reason.NOT_JSON, b'{"id":"bad","delay_ms":NaN,"payload":1}'),
    Bad(Reason.NOT_JSON, b'{"id":"\\ud800","delay_ms":0,"payload":1}'),
    Bad(Reason.NOT_AN_OBJECT, b"[1]"),
    Bad(Reason.TOO_DEEP, b'{"id":"bad","delay_ms":0,"payload":' + b"[" * 600 + b"]" * 600 + b"}"),
    envelope(Reason.UNKNOWN_FIELD, expire_at=1),
    envelope(Reason.WRONG_TYPE, due_at=[1], delay_ms=...),
    envelope(Reason.MISSING_ID, id=...),
    Bad(Reason.MISSING_ID, None),
    Bad(Reason.MISSING_ID, None, [(h.OP, b"cancel")]),
    envelope(Reason.ILLEGAL_ID, id="a\nb"),
    envelope(Reason.ILLEGAL_ID, id="x" * 256),
    envelope(Reason.MISSING_TENANT, None),
    envelope(Reason.ILLEGAL_TENANT, b"a.b"),
    envelope(Reason.ILLEGAL_TENANT, tenant=""),
    envelope(Reason.MISSING_DUE, delay_ms=...),
    envelope(Reason.TWO_DUES, due_at=SECONDS * 1_000),
    envelope(Reason.ILLEGAL_TIME, due_at="2030-01-01T00:00:00", delay_ms=...),
    envelope(Reason.TIME_IN_SECONDS, due_at=SECONDS, delay_ms=...),
    envelope(Reason.TIME_TOO_FAR, due_at=FAR, delay_ms=...),
    envelope(Reason.ILLEGAL_DELAY, delay_ms=-1),
    Bad(Reason.NO_TIMESTAMP, GOOD, [ID, (h.DELAY_MS, b"5")], timestamp_ms=-1),
    envelope(Reason.MISSING_PAYLOAD, payload=...),
    marked(Reason.MISSING_PAYLOAD, ID, DUE, (h.OP, b"schedule"), value=None),
    envelope(Reason.ILLEGAL_KEY, key=1),
    envelope(Reason.ILLEGAL_HEADERS, headers={"streamsched-id": "x"}),
    marked(Reason.UNKNOWN_HEADER, ID, DUE, (h.DISPATCHED_AT, b"1")),
    marked(Reason.DUPLICATE_HEADER, ID, DUE, ID),
    marked(Reason.HEADER_NOT_UTF8, (h.ID, b"\xff"), DUE),
    marked(Reason.HEADER_NOT_UTF8, (h.ID, None), DUE),
    marked(Reason.ILLEGAL_OP, ID, DUE, (h.OP, b"drop")),
    # A mark of a move to here, on a partition that does not own the tenant.
    marked(Reason.MOVED_IN_CIRCLE, ID, DUE, (h.MOVED, b"4"), (h.SOURCE, b"0-0")),
]


def test_a_bad_record_of_each_reason_is_kept_and_the_next_one_is_served(
    shared: Installation,
) -> None:
    """Rejected records have bytes and headers as sent, an event each, and hold up nobody."""
    tested_elsewhere = {Reason.TOO_LARGE, Reason.FOREIGN_TENANT}
    assert {bad.reason for bad in BAD} | tested_elsewhere == set(Reason)
    assert partition_for(b"refused", shared.partitions) != PARTITION
    [tenant] = tenants_of(PARTITION, shared.partitions, 1, "served")
    sender = shared.sender
    for number, bad in enumerate(BAD):
        sender.job(tenant, f"good-{number}", partition=PARTITION)
        sender.record(
            bad.key, bad.value, bad.headers, partition=PARTITION, timestamp_ms=bad.timestamp_ms
        )
    last = sender.job(tenant, "good-last", partition=PARTITION)
    sender.flush()
    end = last[0].offset() or 0
    first = end - 2 * len(BAD)
    served = shared.dispatched(tenant, len(BAD) + 1)
    expected = [f"good-{number}" for number in range(len(BAD))] + ["good-last"]
    assert [job_id(message) for message in served] == expected
    # Whatever was refused stands at every second place of this stretch of the partition.
    places = [str(first + 1 + 2 * number) for number in range(len(BAD))]
    kept = {
        header(message, h.ERROR_OFFSET): message
        for message in shared.committed(
            shared.names.rejected, len(BAD), lambda m: header(m, h.ERROR_OFFSET) in places
        )
    }
    for bad, place in zip(BAD, places, strict=True):
        message = kept[place]
        own = len(bad.headers)
        given, added = headers_of(message)[:own], dict(headers_of(message)[own:])
        assert (message.key(), message.value(), given) == (bad.key, bad.value, list(bad.headers))
        assert added.pop(h.ERROR_MESSAGE), bad
        timestamp = added.pop(h.ERROR_TIMESTAMP)
        assert timestamp == b"-1" if bad.timestamp_ms == -1 else timestamp != b"-1"
        assert added == {
            h.ERROR_CODE: bad.reason.value.encode(),
            h.ERROR_TOPIC: shared.names.jobs.encode(),
            h.ERROR_PARTITION: b"%d" % PARTITION,
            h.ERROR_OFFSET: place.encode(),
        }, bad
    told = {
        (event["offset"], event["reason"])
        for event in read_events(shared.kafka, shared.names.events)
        if event["event"] == "rejected" and event["partition"] == PARTITION
    }
    assert {(int(p), b.reason.value) for p, b in zip(places, BAD, strict=True)} <= told


def test_job_that_is_small_only_while_compressed_is_refused(shared: Installation) -> None:
    """The limit is on uncompressed bytes; what is refused leaves its size and SHA-256."""
    sender = Sender(shared.kafka, shared.names, compression_type="zstd")
    largest = b"x" * (JOB_BYTES_MAX - 200)
    too_large = b"x" * (2 * JOB_BYTES_MAX)
    sender.job("large", "fits", value=largest)
    refused = sender.job("large", "does-not", value=too_large)
    sender.job("large", "after", value=b"small")
    sender.flush()
    found = shared.dispatched("large", 2)
    assert [(job_id(m), m.value()) for m in found] == [("fits", largest), ("after", b"small")]
    place = str(refused[0].offset())
    [kept] = shared.committed(
        shared.names.rejected,
        1,
        lambda m: (
            header(m, h.ERROR_CODE) == Reason.TOO_LARGE and header(m, h.ERROR_OFFSET) == place
        ),
    )
    assert (kept.key(), kept.value()) == (None, None)
    size = header(kept, h.ERROR_SIZE)
    assert size is not None
    assert int(size) > len(too_large)
    assert header(kept, h.ERROR_SHA256) == hashlib.sha256(too_large).hexdigest()


class NoText(str):
    """The name of a header as other languages' clients can write it."""

    __slots__ = ()

    def encode(self, *_args: object, **_kwargs: object) -> bytes:
        """Bytes that are no UTF-8."""
        return b"\xff\xfe"


async def send_in_one_batch(
    kafka: str, topic: str, partition: int, records: list[tuple[bytes, bytes, Headers]]
) -> list[int]:
    """Produce keys, values and headers with nothing between them; returns their offsets."""
    options = aiokafka_options(client_settings(kafka))
    async with AIOKafkaProducer(**options, linger_ms=500) as client:
        sent = [
            await client.send(topic, value, key, partition, headers=list(headers))
            for key, value, headers in records
        ]
        return [(await one).offset for one in sent]


@pytest.fixture
def own(kafka: str, tmp_path: Path) -> Iterator[Installation]:
    """A scheduler whose topics nobody else reads.

    The client that tests read with crashes when it is asked twice for headers it cannot read.
    """
    with installed(kafka, tmp_path) as running:
        yield running


def test_records_whose_headers_cannot_be_copied_are_refused_and_the_others_served(
    own: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names of headers that are no UTF-8, and so many headers that they do not fit beside ours."""
    # The compiled builder takes the text itself and never calls `encode`.
    in_python = default_records._DefaultRecordBatchBuilderPy
    for module in (message_accumulator, producer):
        monkeypatch.setattr(module, "DefaultRecordBatchBuilder", in_python)
    [tenant] = tenants_of(PARTITION, own.partitions, 1, "beside")
    names = own.names
    due_now = (h.DELAY_MS, b"0")
    good = [(tenant.encode(), b"%d" % i, [(h.ID, b"good-%d" % i), due_now]) for i in range(122)]
    no_text = (tenant.encode(), GOOD, [(NoText("?"), b"1"), (h.ID, b"no-text"), due_now])
    many = [("a", b"")] * 110_000 + [(h.ID, b"many"), due_now]
    offsets = asyncio.run(
        send_in_one_batch(own.kafka, names.jobs, PARTITION, [*good[:120], no_text, good[120]])
    )
    own.sender.record(tenant.encode(), GOOD, many, partition=PARTITION)
    own.sender.record(*good[121], partition=PARTITION)
    own.sender.flush()
    served = own.dispatched(tenant, 122)
    assert [job_id(m) for m in served] == [f"good-{i}" for i in range(122)]
    [kept] = own.committed(
        names.rejected, 1, lambda m: header(m, h.ERROR_OFFSET) == str(offsets[120])
    )
    assert header(kept, h.ERROR_CODE) == Reason.HEADER_NOT_UTF8
    assert (kept.key(), kept.value()) == (tenant.encode(), GOOD)
    [event] = [
        event
        for event in read_events(own.kafka, names.events)
        if event["event"] == "rejected"
        and event["partition"] == PARTITION
        and event["offset"] > offsets[121]
        and event["reason"] == Reason.TOO_LARGE
    ][:1]
    assert event["offset"] == offsets[121] + 1


def test_invalid_settings_leave_the_last_valid_in_force(shared: Installation) -> None:
    """A bad record is counted and shown, and changes nothing."""
    sender, process = shared.sender, shared.process
    sender.settings("careful", rate="1/h", burst=3)
    process.await_tenant("careful", rate="1/h", burst=3)
    before = process.metric("streamsched_settings_records_invalid")
    bad = [b"{", b"[]", b'{"rate":"0/s"}', b'{"rate":40}', b'{"speed":"1/s"}', b"\xff", b""]
    for value in bad:
        sender.settings_record(b"careful", value)
    sender.settings_record(b"no tenant", b"{}")
    sender.settings("careful-probe", rate="2/h")
    sender.flush()
    process.await_tenant("careful-probe", rate="2/h")
    process.await_tenant("careful", rate="1/h", burst=3, status="ok")
    process.await_metric("streamsched_settings_records_invalid", before + len(bad) + 1)


def forget_records(admin: AdminClient, topic: str, before: int) -> None:
    """Remove the records of a compacted topic below an offset, as compaction may do."""
    for policy in ("delete", "compact"):
        if policy == "compact":
            place = TopicPartition(topic, 0, before)
            admin.delete_records([place])[place].result(10)
        entry = ConfigEntry("cleanup.policy", policy, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
        admin.incremental_alter_configs([resource])[resource].result(10)


@pytest.mark.timeout(180)
def test_only_an_invalid_record_is_left_of_a_tenant(
    kafka: str, admin: AdminClient, tmp_path: Path
) -> None:
    """The state remembers the last valid settings; where there were none, the jobs wait."""
    with installed(kafka, tmp_path, partitions=2) as it:
        it.sender.settings("known", rate="7/h", burst=2)
        it.process.await_tenant("known", rate="7/h", burst=2)
        it.sender.job("known", "a")
        it.sender.flush()
        it.dispatched("known", 1)
        assert it.process.terminate() == 0
        bad = it.sender.settings_record(b"known", b'{"rate":"fast"}')
        it.sender.settings_record(b"strange", b'{"rate":"faster"}')
        it.sender.flush()
        forget_records(admin, it.names.tenant_settings, bad[0].offset() or 0)
        for number in range(3):
            it.sender.job("known", f"b-{number}")
            it.sender.job("strange", f"b-{number}")
        it.sender.flush()
        it.process.start()
        it.process.wait_ready()
        row = it.process.await_tenant("known", status="throttled", pending=2)
        assert (row["rate"], row["burst"]) == ("7/h", 2)
        row = it.process.await_tenant("strange", status="unconfigured", pending=3)
        assert "faster" in row["reason"]
        assert len(it.dispatched("known", 2)) == 2
        it.sender.settings("strange", burst=5)
        it.sender.flush()
        assert len(it.dispatched("strange", 3)) == 3
