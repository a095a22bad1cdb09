"""Jobs that a producer of another partitioner put on partitions which do not own their tenant."""

from collections import Counter

from confluent_kafka import Message

from streamsched.core import headers as h
from streamsched.core.placement import partition_for
from tests.broker.installation import Installation
from tests.broker.reading import (
    dispatched_at_ms,
    header,
    job_id,
    lateness_ms,
    read_events,
    read_topics,
)
from tests.broker.sending import Sender

TENANTS = [f"misplaced-{number}" for number in range(12)]
DELAY_MS = 6_000
LATENESS_MS_MAX = 30_000
"""Far beyond what moving takes, on a machine that is shared: a job lost from sight would be."""


def source(message: Message) -> str:
    """Where the record stands on the ingress topic, as headers and events say it."""
    return f"{message.partition()}-{message.offset()}"


def is_misplaced(message: Message, partitions: int) -> bool:
    """Whether the record lies where its tenant does not belong."""
    return partition_for(message.key() or b"", partitions) != message.partition()


def test_jobs_on_wrong_partitions_come_out_as_told(shared: Installation) -> None:
    """By the default of librdkafka: once, on time, replaced, cancelled, the first source kept."""
    sender = Sender(shared.kafka, shared.names, partitioner="consistent_random")
    sent = {tenant: send_all(sender, tenant) for tenant in TENANTS}
    sender.flush()
    misplaced = [t for t in TENANTS if is_misplaced(sent[t]["new"][0], shared.partitions)]
    print(f"{len(misplaced)} of {len(TENANTS)} tenants on wrong partitions")
    assert len(misplaced) >= len(TENANTS) // 2
    dispatched = {tenant: shared.dispatched(tenant, 2) for tenant in TENANTS}
    events = read_events(shared.kafka, shared.names.events)
    for tenant in TENANTS:
        places = {name: source(delivered[0]) for name, delivered in sent[tenant].items()}
        assert sorted(job_id(message) for message in dispatched[tenant]) == ["a", "now"]
        found = {job_id(message): message for message in dispatched[tenant]}
        first, second = found["now"], found["a"]
        assert (first.key(), first.value()) == (b"now", b"[1.10]")
        assert (header(first, "own"), header(first, "x")) == ("1", "y")
        assert (second.key(), second.value()) == (b"k-" + tenant.encode(), b"new")
        assert ("own", b"\xff") in (second.headers() or [])
        assert header(first, h.SOURCE) == places["now"]
        assert header(second, h.SOURCE) == places["new"]
        due_ms = sent[tenant]["new"][0].timestamp()[1] + DELAY_MS
        assert header(second, h.DUE_AT) == str(due_ms)
        assert dispatched_at_ms(second) >= due_ms
        own = [event for event in events if event["tenant"] == tenant]
        assert Counter((e["event"], e["id"], e.get("source")) for e in own) == Counter(
            [
                ("replaced", "a", places["old"]),
                ("cancelled", "gone", places["gone"]),
                ("cancel_not_found", "never", None),
            ]
        )
    worst_ms = max(lateness_ms(m) for found in dispatched.values() for m in found)
    print(f"longest lateness {worst_ms} ms")
    assert worst_ms <= LATENESS_MS_MAX


def send_all(sender: Sender, tenant: str) -> dict[str, list[Message]]:
    """One tenant's jobs and cancels, by what they are for."""
    key = ("streamsched-key", b"k-" + tenant.encode())
    envelope = b'{"id":"now","delay_ms":0,"payload":[1.10],"headers":{"x":"y"}}'
    sent = {
        "old": sender.job(tenant, "a", delay_ms=DELAY_MS, value=b"old"),
        "new": sender.job(tenant, "a", key, ("own", b"\xff"), delay_ms=DELAY_MS, value=b"new"),
        "now": sender.record(tenant.encode(), envelope, [("own", b"1")]),
        "gone": sender.job(tenant, "gone", delay_ms=600_000),
    }
    sender.cancel(tenant, "gone")
    sender.cancel(tenant, "never")
    return sent


def test_moved_record_keeps_its_key_and_is_moved_once(shared: Installation) -> None:
    """On the ingress topic lies one copy, on the right partition, with the key it came with."""
    sender = Sender(shared.kafka, shared.names)
    tenant = "moved-once"
    owner = partition_for(tenant.encode(), shared.partitions)
    wrong = (owner + 1) % shared.partitions
    key = b"somebody else's key"
    sent = sender.record(
        key,
        b"body",
        [(h.ID, b"a"), (h.TENANT, tenant.encode()), (h.DELAY_MS, b"0"), ("own", b"1")],
        partition=wrong,
    )
    sender.flush()
    [dispatched] = shared.dispatched(tenant, 1)
    assert header(dispatched, h.SOURCE) == source(sent[0])
    copies = [
        message
        for message in read_topics(shared.kafka, [shared.names.jobs])
        if header(message, h.TENANT) == tenant
    ]
    assert Counter(message.partition() for message in copies) == {wrong: 1, owner: 1}
    [moved] = [message for message in copies if message.partition() == owner]
    assert (moved.key(), moved.value()) == (key, b"body")
    assert header(moved, h.SOURCE) == source(sent[0])
    assert header(moved, h.MOVED) == str(shared.partitions)
    assert header(moved, h.DELAY_MS) is None
    assert header(moved, h.DUE_AT) == str(sent[0].timestamp()[1])
