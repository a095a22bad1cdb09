"""When an aiokafka client asks for metadata: neither without a pause nor too late.

Whoever of that client's parts misses a leader asks again as soon as an answer is there, and a
refused connection is an answer at once: a process whose Kafka is away would spend a core on asking,
and one whose partition has no leader would ask its brokers as often as they answer.

And where a leader refers to a node of our rack that the client does not know, since that was away
when it last looked, it goes on asking the leader, which has nothing else to say, for minutes.
"""
# ruff: noqa: SLF001 - tests/unit/test_faust_assumptions.py pins what is relied on.

import asyncio
import math
from typing import Any, Final

from aiokafka import AIOKafkaConsumer
from aiokafka.client import AIOKafkaClient

METADATA_BACKOFF_SECONDS: Final = 0.1
"""As long as Kafka's own clients wait between two looks (retry.backoff.ms)."""


def pace_metadata(client: AIOKafkaClient) -> None:
    """Let `METADATA_BACKOFF_SECONDS` pass between two updates of the client's metadata.

    To be called on the client's loop.
    """
    update = client._metadata_update
    loop = asyncio.get_running_loop()
    ended = -math.inf

    async def paced(*args: Any) -> bool:
        nonlocal ended
        await asyncio.sleep(ended + METADATA_BACKOFF_SECONDS - loop.time())
        try:
            return bool(await update(*args))
        finally:
            ended = loop.time()

    client._metadata_update = paced


def look_for_unknown_replicas(consumer: AIOKafkaConsumer) -> None:
    """Update the consumer's metadata whenever it is referred to a node that it does not know."""
    fetcher, client = consumer._fetcher, consumer._client
    note = fetcher._update_preferred_read_replica

    def noted(partition: object, node_id: int) -> None:
        if node_id >= 0 and client.cluster.broker_metadata(node_id) is None:
            client.force_metadata_update()
        note(partition, node_id)

    fetcher._update_preferred_read_replica = noted
