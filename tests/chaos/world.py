"""What the faults are done to: a cluster, some schedulers, a load and a reader, in one folder."""

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from streamsched.core.names import TopicNames
from streamsched.demo.spans import Span
from streamsched.kafka import admin
from streamsched.kafka.broker_node import BrokerNode
from streamsched.kafka.embedded import EmbeddedKafka
from tests.broker.cluster import await_condition
from tests.chaos.judge import Deletion, Trouble
from tests.chaos.load import Load
from tests.chaos.member import Member
from tests.chaos.reader import Reader

PARTITIONS: Final = 5
"""They divide evenly neither among two schedulers nor among three."""
CALM_SECONDS_MAX: Final = 120.0
SETTLE_MS: Final = 1_000
FLOWING_MS: Final = 2_000
"""Dispatches are flowing if one was received within this time."""
DELETE_RETENTION_MS: Final = (60_000, 600_000)
"""Tombstones of the changelog vanish this early, so state that is old has really missed some; with
the longer time an old copy is gone on from, and its tail is read."""

_CHANGELOG: Final = {
    "segment.ms": "10000",
    "min.cleanable.dirty.ratio": "0.01",
}
_BROKER: Final = {"log.cleaner.backoff.ms": "10000"}


class NotCalm(AssertionError):
    """After a fault the installation did not come back."""


class World:
    """Everything that a run of chaos has; `close` ends all of it."""

    def __init__(
        self,
        folder: Path,
        nodes: int,
        seed: str,
        say: Callable[[str], None],
        *,
        life_seconds: int,
    ) -> None:
        """Nothing runs before `start`."""
        self.folder = folder
        self.random = random.Random(seed)
        self.say = say
        self.names = TopicNames("chaos")
        self.kafka = EmbeddedKafka(folder / "kafka", nodes=nodes, properties=_BROKER)
        self.members: list[Member] = []
        self.all_members: list[Member] = []
        self.faults: list[Trouble] = []
        self.deletions: list[Deletion] = []
        self.restarts: list[str] = []
        """Schedulers that ended by themselves and were started again, as a supervisor does."""
        self.old_state: Path | None = None
        self._seed = seed
        self._life_seconds = life_seconds
        self.load: Load
        self.reader: Reader
        self.admin: AdminClient

    def start(self) -> None:
        """Start the cluster, one scheduler and the load."""
        self.kafka.start()
        servers = self.kafka.bootstrap_servers
        self.admin = AdminClient(
            {
                "bootstrap.servers": servers,
                "log_level": 0,
                "reconnect.backoff.max.ms": 500,
            }
        )
        admin.apply({"bootstrap.servers": servers}, self.names, PARTITIONS)
        self._shorten_changelog()
        self.load = Load(servers, self.names, PARTITIONS, self._seed)
        self.reader = Reader(servers, self.names)
        self.reader.start()
        self.load.publish_settings()
        # The first one alone has the state of every partition, and keeps a copy of it.
        self.say("Kafka and its topics are there")
        self.add_member()
        self.load.start()
        self.await_calm()
        self.say("one scheduler works on every partition")

    def new_member(self) -> Member:
        """A scheduler that was not started, and that nobody watches over."""
        number = len(self.all_members) + 1
        member = Member(
            self.kafka.bootstrap_servers,
            self.names.app_id,
            self.folder / f"scheduler-{number}",
            life_seconds=self._life_seconds,
        )
        member.name = f"scheduler-{number}"
        self.all_members.append(member)
        return member

    def add_member(self) -> Member:
        """Start one scheduler more."""
        member = self.new_member()
        member.start()
        self.members.append(member)
        return member

    def close(self) -> None:
        """End everything, by force."""
        with contextlib.suppress(AttributeError):
            self.load.abandon()
        for member in self.all_members:
            member.kill()
        with contextlib.suppress(AttributeError):
            self.reader.close()
        self.kafka.stop()

    # --- looking ---------------------------------------------------------------------------

    def owned(self) -> dict[str, set[int]]:
        """The partitions that each scheduler works on."""
        return {m.name: m.ready_partitions() for m in self.members if m.is_running()}

    def busy_member(self) -> Member:
        """A scheduler that works on at least one partition."""
        busy = [member for member in self.members if member.ready_partitions()]
        return self.random.choice(busy)

    def dispatches_since(self, moment_ms: int) -> int:
        """How many dispatches were received since."""
        with self.reader.lock:
            return sum(at_ms > moment_ms for at_ms in self.reader.recent_ms)

    def await_true(
        self, what: str, condition: Callable[[], bool], seconds: float = CALM_SECONDS_MAX
    ) -> None:
        """Wait for something that must happen; raises `NotCalm` where it does not."""
        try:
            await_condition(what, condition, seconds, self._tell)
        except AssertionError as error:
            raise NotCalm(str(error)) from error

    def await_calm(self) -> None:
        """Wait until every scheduler works, each partition has one, and dispatches flow."""
        self.await_true("every partition is worked on and dispatches flow", self._is_calm)

    def _is_calm(self) -> bool:
        self.reader.check()
        self._supervise()
        if not self.kafka.running():
            return False
        owned = self.owned()
        numbers = sorted(number for numbers in owned.values() for number in numbers)
        # Each has some: one that has none has not come back yet, though nobody misses it.
        return (
            numbers == list(range(PARTITIONS))
            and all(owned.values())
            and self.dispatches_since(now_ms() - FLOWING_MS) > 0
        )

    def _supervise(self) -> None:
        """Start again what has ended by itself, and remember it."""
        for member in self.members:
            if member.is_running():
                continue
            status = member.wait_ended()
            last = [line for line in member.log_lines() if line.get("level") in TROUBLE][-1:]
            said = str(last[0].get("event"))[:300] if last else "nothing"
            self.restarts.append(f"{member.name} ended with status {status}, saying: {said}")
            self.say(f"    {self.restarts[-1]}")
            member.start()

    def _tell(self) -> str:
        lines = [f"partitions: {self.owned()}, restarts: {len(self.restarts)}"]
        for member in self.members:
            lines += [f"--- {member.name}", member.log()[-1_500:]]
        return "\n".join(lines)

    @contextlib.contextmanager
    def trouble(self, name: str) -> Iterator[None]:
        """What happens within is troubled by what the name says."""
        began_ms = now_ms()
        try:
            yield
        finally:
            self.faults.append(Trouble(name, Span(began_ms, now_ms() + SETTLE_MS)))

    # --- the cluster -----------------------------------------------------------------------

    def leader(self, topic: str, partition: int) -> BrokerNode:
        """The node that leads a partition."""
        found: list[int] = []

        def is_led() -> bool:
            with contextlib.suppress(KafkaException):
                partitions = self.admin.list_topics(topic, timeout=5).topics[topic].partitions
                found[:] = [partitions[partition].leader] if partition in partitions else []
            return bool(found) and found[0] > 0

        self.await_true(f"{topic}-{partition} has a leader", is_led)
        return self.kafka.nodes[found[0] - 1]

    def coordinator(self, partition: int) -> BrokerNode:
        """The node that coordinates the transactions of the partition's producer."""
        topic = "__transaction_state"
        count = len(self.admin.list_topics(topic, timeout=10).topics[topic].partitions)
        return self.leader(topic, java_hash(f"{self.names.app_id}-{partition}") % count)

    def await_in_sync(self) -> None:
        """Wait until every replica of every partition is in sync again."""
        wanted = len(self.kafka.nodes)

        def all_in_sync() -> bool:
            with contextlib.suppress(KafkaException):
                return all(
                    len(partition.isrs) == min(len(partition.replicas), wanted)
                    and partition.leader > 0
                    for topic in self.admin.list_topics(timeout=5).topics.values()
                    for partition in topic.partitions.values()
                )
            return False

        self.await_true("all replicas are in sync", all_in_sync)

    def _shorten_changelog(self) -> None:
        retention_ms = self.random.choice(DELETE_RETENTION_MS)
        self.say(f"tombstones of the changelog stay for {retention_ms // 1000} s")
        wanted = {**_CHANGELOG, "delete.retention.ms": str(retention_ms)}
        entries = [
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
            for name, value in wanted.items()
        ]
        resource = ConfigResource(
            ResourceType.TOPIC, self.names.changelog, incremental_configs=entries
        )
        for future in self.admin.incremental_alter_configs([resource]).values():
            future.result(20)


TROUBLE: Final = frozenset({"error", "critical"})


def now_ms() -> int:
    """The wall clock, as the topics have it."""
    return time.time_ns() // 1_000_000


def java_hash(text: str) -> int:
    """`String.hashCode` without its sign, as Kafka chooses a coordinator by it."""
    value = 0
    for character in text:
        value = (31 * value + ord(character)) & 0xFFFFFFFF
    signed = value - (1 << 32) if value & 0x80000000 else value
    return abs(signed)
