"""Egress topics whose records the broker refuses though they exist and are large enough."""

import asyncio
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from streamsched.core.cycle import Cycle, OutRecord
from streamsched.core.placement import partition_for
from streamsched.engine.patience import Patience
from streamsched.engine.producer import CycleFailedError, PartitionProducer, connect
from tests.broker.cluster import create_topic
from tests.broker.installation import Installation
from tests.broker.reading import header
from tests.connecting import client_settings

OLDEST = "message.timestamp.before.max.ms"


def neighbours(partitions: int) -> tuple[str, str]:
    """Two new tenants on one partition, so that they share every transaction."""
    first = f"refused-{uuid.uuid4().hex[:8]}"
    wanted = partition_for(first.encode(), partitions)
    candidates = (f"neighbour-{uuid.uuid4().hex[:8]}" for _ in range(10_000))
    return first, next(n for n in candidates if partition_for(n.encode(), partitions) == wanted)


def test_a_topic_that_refuses_records_holds_its_own_tenant_only_and_goes_on_once_mended(
    shared: Installation, admin: AdminClient
) -> None:
    """The neighbour's jobs leave; the tenant is unconfigured with the reason, then goes on."""
    refused, neighbour = neighbours(shared.partitions)
    topic = shared.names.egress(refused)
    create_topic(admin, topic, configs={OLDEST: "1"})
    for number in range(20):
        shared.sender.job(refused, f"a-{number}")
        shared.sender.job(neighbour, f"b-{number}")
    shared.sender.flush()
    assert len(shared.dispatched(neighbour, 20)) == 20
    found = shared.process.await_tenant(refused, status="unconfigured", pending=20)
    assert OLDEST in found["reason"]

    entry = ConfigEntry(OLDEST, "86400000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource("TOPIC", topic, incremental_configs=[entry])
    admin.incremental_alter_configs([resource])[resource].result(10)
    records = shared.dispatched(refused, 20)
    assert [header(record, "streamsched-id") for record in records] == [f"a-{i}" for i in range(20)]


def test_a_producer_names_the_topic_that_refuses_and_serves_the_others_again(
    kafka: str, app_id: str, admin: AdminClient
) -> None:
    """The first abort makes it look closely, the second names the topic; then others commit."""
    settings = client_settings(kafka, app_id=app_id)
    good, bad = f"{app_id}.good", f"{app_id}.bad"
    create_topic(admin, settings.names.changelog)
    create_topic(admin, good)
    create_topic(admin, bad, configs={OLDEST: "5000"})

    def cycle_to(*topics: str) -> Cycle:
        old_ms = int(time.time() * 1000) - 60_000
        cycle = Cycle(0, old_ms)
        cycle.records = [OutRecord(topic, 0, b"k", b"v", [], old_ms) for topic in topics]
        cycle.changelog = [(b"key", b"value")]
        return cycle

    async def scenario() -> None:
        with ThreadPoolExecutor(2) as executor:
            producer = PartitionProducer(
                connect(settings, 0, Patience()), 0, settings.names.changelog, executor
            )
            assert await producer.fence(lambda: True)
            with pytest.raises(CycleFailedError) as first:
                await producer.commit(cycle_to(good, bad))
            assert not first.value.refusals
            with pytest.raises(CycleFailedError) as second:
                await producer.commit(cycle_to(good, bad))
            assert list(second.value.refusals) == [bad]
            assert await producer.commit(cycle_to(good)) > 0
            producer.close()

    asyncio.run(scenario())
