"""Somebody else's transaction on the ingress topic is begun and not ended."""

import pytest
from confluent_kafka import Producer

from streamsched.core import headers as h
from streamsched.core.placement import partition_for
from tests.broker.cluster import await_condition
from tests.broker.installation import Installation
from tests.broker.sending import Sender

UNSTABLE = "streamsched_ingress_unstable_records"


@pytest.mark.timeout(120)
def test_an_open_transaction_is_seen_and_what_it_held_up_leaves_afterwards(
    shared: Installation,
) -> None:
    """The gauge shows what cannot be read; an abort sets the partition free and leaves no job."""
    tenant = "behind-a-transaction"
    partition = partition_for(tenant.encode(), shared.partitions)
    outside = Producer({"bootstrap.servers": shared.kafka, "transactional.id": "somebody-else"})
    outside.init_transactions(30)
    outside.begin_transaction()
    headers = [(h.ID, b"never"), (h.DELAY_MS, b"0")]
    outside.produce(shared.names.jobs, b"x", tenant, partition=partition, headers=headers)
    assert not outside.flush(30)
    sender = Sender(shared.kafka, shared.names)
    sender.job(tenant, "behind", delay_ms=0)
    sender.flush()
    await_condition(
        "the two records are seen",
        lambda: shared.process.metric(f'{UNSTABLE}{{partition="{partition}"}}') == 2,
        30,
        shared.process.log,
    )
    outside.abort_transaction(30)
    assert [message.key() for message in shared.dispatched(tenant, 1)] == [b"behind"]
    shared.process.await_metric(UNSTABLE, 0)
