"""How often a client asks for metadata."""

import asyncio

from aiokafka.client import AIOKafkaClient

from streamsched.engine.metadata_pace import pace_metadata
from streamsched.kafka.broker_node import free_port


async def _looks(seconds: float) -> int:
    """How often a client that misses a leader looks at a Kafka that is away, within `seconds`."""
    client = AIOKafkaClient(bootstrap_servers=f"127.0.0.1:{free_port()}")
    looks = 0

    async def failing(*_: object) -> bool:
        nonlocal looks
        looks += 1
        return False

    client._metadata_update = failing
    pace_metadata(client)
    looking = asyncio.create_task(client._md_synchronizer())
    end = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < end:
        assert await client.force_metadata_update() is False
    looking.cancel()
    return looks


def test_a_client_that_misses_a_leader_asks_with_pauses() -> None:
    """Whoever asks again at once waits for its turn: half a second holds six looks at most."""
    assert asyncio.run(_looks(0.5)) <= 6
