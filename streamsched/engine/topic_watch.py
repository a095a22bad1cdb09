"""Noticing that a topic of our own was deleted or made anew under a running scheduler.

An offset says where in a log, and a topic's id says in which. Whoever goes on in another log of the
same name takes its beginning for a truth about the old one, and jobs are lost without a word.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from streamsched.engine.cluster import Cluster
from streamsched.engine.reader import StartError
from streamsched.engine.settings_reader import START_AGAIN
from streamsched.kafka.connection import Connection, KafkaProblem, TopicRefusal
from streamsched.settings import Settings

LOOK_SECONDS: Final = 10.0
ANSWER_SECONDS_MAX: Final = 2.0
"""A partition that is taken over waits for the answer, but not for a broker that hangs."""

MISSING_SECONDS_MAX: Final = 25.0
"""How long brokers must say of a topic that there is none, and nothing else, to be believed: one
that starts may not have heard of it yet, and whoever makes it anew needs a moment."""


class TopicWatch:
    """A thread that asks for the ids of our topics, now and then and whenever somebody wants."""

    def __init__(
        self, settings: Settings, cluster: Cluster, fail: Callable[[BaseException], None]
    ) -> None:
        """`fail` is called on the loop of `start`, with a `StartError` for another topic."""
        self._settings = settings
        names = settings.names
        self._ids = {
            names.jobs: cluster.jobs_topic_id,
            names.changelog: cluster.changelog_topic_id,
            names.tenant_settings: cluster.settings_topic_id,
        }
        self._fail = fail
        self._connection = Connection(settings)
        self._missing_since: dict[str, float] = {}
        self._asked: deque[asyncio.Future[bool]] = deque()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Begin to look."""
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._run, name="topic-watch", daemon=True).start()

    def stop(self) -> None:
        """Ask the thread to end; it does once it was answered. Nobody may be in `look` then."""
        self._stopping.set()
        self._wake.set()

    async def look(self) -> bool:
        """Ask anew; returns whether the changelog is surely the one there was at the start.

        It is not sure where no broker answers in time, or none may tell. Those who ask at the same
        time share a request. Raises `StartError` where a topic is another one; `fail` was told.
        """
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._asked.append(answer)
        self._wake.set()
        return await answer

    def _run(self) -> None:
        while True:
            self._wake.wait(LOOK_SECONDS)
            if self._stopping.is_set():
                return
            # Whoever asks from here on is answered by this request or by the next.
            self._wake.clear()
            asked = [self._asked.popleft() for _ in range(len(self._asked))]
            outcome: bool | Exception
            try:
                outcome = self._look_once()
            except Exception as error:  # noqa: BLE001 - the process ends with it
                outcome = error
            if self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._tell, asked, outcome)

    def _tell(self, asked: list[asyncio.Future[bool]], outcome: bool | Exception) -> None:  # noqa: FBT001
        if isinstance(outcome, Exception):
            self._fail(outcome)
        for answer in asked:
            if answer.done():
                continue
            if isinstance(outcome, Exception):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)

    def _look_once(self) -> bool:
        try:
            found = self._connection.topic_ids(list(self._ids), ANSWER_SECONDS_MAX)
        except KafkaProblem:
            self._missing_since.clear()
            return False
        faults = [fault for topic in self._ids if (fault := self._fault(topic, found[topic]))]
        if faults:
            raise StartError("; ".join(faults))
        return isinstance(found[self._settings.names.changelog], str)

    def _fault(self, topic: str, found: str | TopicRefusal) -> str:
        """What is wrong with a topic and what to do; empty where nothing is known to be."""
        if isinstance(found, TopicRefusal) and found.is_missing:
            now = time.monotonic()
            is_gone = now - self._missing_since.setdefault(topic, now) > MISSING_SECONDS_MAX
            # Without the settings topic, the settings that are in force stay.
            if is_gone and topic != self._settings.names.tenant_settings:
                return f"topic {topic} was deleted while this scheduler ran: {self._remedy(topic)}"
            return ""
        self._missing_since.pop(topic, None)
        if isinstance(found, TopicRefusal) or found == self._ids[topic]:
            return ""
        return (
            f"topic {topic} was deleted and made anew while this scheduler ran (its id was "
            f"{self._ids[topic]} and is {found} now): {self._remedy(topic)}"
        )

    def _remedy(self, topic: str) -> str:
        names = self._settings.names
        if topic == names.tenant_settings:
            return START_AGAIN
        folder = self._settings.data_dir / self._settings.app_id
        if topic == names.jobs:
            return (
                f"to begin anew, delete the topic {names.changelog}, run `streamsched topics "
                f"apply`, and remove {folder} of each scheduler"
            )
        return (
            "to accept the loss of what the old one held, run `streamsched topics apply`, remove "
            f"{folder} of each scheduler, and delete the consumer group {self._settings.app_id!r}"
        )
