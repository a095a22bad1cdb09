"""Keeps an aiokafka client from asking for metadata without a pause.

Whoever of that client's parts misses a leader asks again as soon as an answer is there, and a
refused connection is an answer at once: a process whose Kafka is away would spend a core on asking,
and one whose partition has no leader would ask its brokers as often as they answer.
"""

import asyncio
import math
from typing import Any, Final

from aiokafka.client import AIOKafkaClient

METADATA_BACKOFF_SECONDS: Final = 0.1
"""As long as Kafka's own clients wait between two looks (retry.backoff.ms)."""


def pace_metadata(client: AIOKafkaClient, seconds: float = METADATA_BACKOFF_SECONDS) -> None:
    """Let each update of the client's metadata begin no sooner than `seconds` after the last ended.

    To be called on the client's loop.
    """
    update = client._metadata_update  # noqa: SLF001 - tests/unit/test_faust_assumptions.py pins it
    loop = asyncio.get_running_loop()
    ended = -math.inf

    async def paced(*args: Any) -> bool:
        nonlocal ended
        await asyncio.sleep(ended + seconds - loop.time())
        try:
            return bool(await update(*args))
        finally:
            ended = loop.time()

    client._metadata_update = paced  # noqa: SLF001
