"""The threads of a process: blocking clients wait in them, the event loop does not."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient

from streamsched.engine.librdkafka_log import LIBRDKAFKA_LOG
from streamsched.settings import Settings

REPLAYS_AT_ONCE_MAX: Final = 4
ANSWER_SECONDS_MAX: Final = 10.0

T = TypeVar("T")


class Threads:
    """Three pools: commits must never queue behind replays, nor replays behind followers."""

    def __init__(self, settings: Settings, partitions: int) -> None:
        """Room for a commit of every partition at once."""
        self._settings = settings
        self.producing = ThreadPoolExecutor(partitions + 2, thread_name_prefix="producing")
        self._reading = ThreadPoolExecutor(REPLAYS_AT_ONCE_MAX, thread_name_prefix="reading")
        # Each follower waits in a thread for what comes next.
        self._following = ThreadPoolExecutor(partitions, thread_name_prefix="following")

    async def reading(self, function: Callable[..., T], *arguments: object) -> T:
        """Run a blocking read in a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reading, function, *arguments)

    async def following(self, function: Callable[..., T], *arguments: object) -> T:
        """Run a step of a follower in a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._following, function, *arguments)

    def committed_offset(self, partition: int) -> int | None:
        """What the group has committed for an ingress partition, `None` for nothing; blocking."""
        settings = self._settings
        admin = AdminClient(settings.client_config(), logger=LIBRDKAFKA_LOG)
        wanted = [TopicPartition(settings.names.jobs, partition)]
        request = [ConsumerGroupTopicPartitions(settings.app_id, wanted)]
        [answer] = admin.list_consumer_group_offsets(request).values()
        [found] = answer.result(ANSWER_SECONDS_MAX).topic_partitions
        return found.offset if found.offset >= 0 else None

    def close(self) -> None:
        """Do not wait for what still runs: it is bounded, and its result is of no use."""
        self.producing.shutdown(wait=False, cancel_futures=True)
        self._reading.shutdown(wait=False, cancel_futures=True)
        self._following.shutdown(wait=False, cancel_futures=True)
