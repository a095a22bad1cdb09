"""Whether this user may write under our transactional ids.

No admin client asks that without beginning to write. Every writer first asks a broker who
coordinates its transactions, and hears already then that the id is not its to use: one question,
which changes nothing, put by aiokafka.
"""

import asyncio
from typing import Final

from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import KafkaError, TransactionalIdAuthorizationFailed

from streamsched.engine.kafka_options import aiokafka_options
from streamsched.settings import Settings

ANSWER_SECONDS_MAX: Final = 5.0


def is_forbidden(settings: Settings, transactional_id: str) -> bool:
    """Whether the broker refuses the id; `False` where it does not tell in time."""
    return asyncio.run(_ask(settings, transactional_id))


async def _ask(settings: Settings, transactional_id: str) -> bool:
    options = aiokafka_options(settings)
    options.pop("client_rack", None)  # only a consumer has one
    client = AIOKafkaClient(**options)
    try:
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            await client.bootstrap()
            await client.coordinator_lookup(CoordinationType.TRANSACTION, transactional_id)
    except TransactionalIdAuthorizationFailed:
        return True
    except (KafkaError, TimeoutError):
        return False
    finally:
        await client.close()
    return False
