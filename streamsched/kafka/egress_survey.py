"""One look at the egress topics of a cluster: which are good, creating those that are missing."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from confluent_kafka import KafkaError
from confluent_kafka.admin import ClusterMetadata, NewTopic, TopicMetadata

from streamsched.core.destinations import Destination, Problem
from streamsched.core.limits import MESSAGE_BYTES_MAX
from streamsched.core.names import TopicNames
from streamsched.kafka.connection import Connection, TopicFacts, TopicRefusal, refusal_text
from streamsched.kafka.rights import Kind, Operation, Resource, lacks

FACTS_SECONDS: Final = 10.0
"""How late a changed configuration or right is noticed; later with more than 500 topics."""

FAULTY_FACTS_SECONDS: Final = 1.5
"""How late it is noticed that a configuration or right was mended, beside the survey's period."""

OLDEST_MS_MIN: Final = 60_000
"""A topic must take records this old. One that refuses the marker of a transaction keeps that
transaction, and with it every later one of the same partition, from ending."""

FACTS_PER_SURVEY_MAX: Final = 100
CREATIONS_PER_SURVEY_MAX: Final = 200
ANSWER_SECONDS_MAX: Final = 5.0

_FORBIDDEN_CODES = frozenset(
    {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED}
)


@dataclass(frozen=True, slots=True)
class Findings:
    """How each wanted topic stands; `soon` asks for another survey without delay."""

    destinations: Mapping[str, Destination]
    soon: bool


@dataclass(frozen=True, slots=True)
class _Reading:
    """Facts of a topic or the refusal to tell them, and when they were read (monotonic)."""

    facts: TopicFacts | TopicRefusal
    read_at_seconds: float


def judge(
    topic: str, partitions: int, leaderless: int, facts: TopicFacts, message_bytes_min: int
) -> Destination:
    """An existing topic as the scheduler shall see it; lasting problems before passing ones."""
    problem: Problem | None = None
    detail = ""
    if facts.compacted:
        problem = Problem.COMPACTED
        detail = "is compacted, which would remove dispatched jobs: set cleanup.policy=delete"
    elif Operation.WRITE not in facts.operations:
        problem = Problem.FORBIDDEN
        detail = forbidden(topic, facts.operations)
    elif facts.oldest_ms < OLDEST_MS_MIN:
        problem = Problem.REFUSES
        detail = (
            f"refuses records older than {facts.oldest_ms} ms, and so the markers that end "
            f"transactions: raise message.timestamp.before.max.ms to {OLDEST_MS_MIN} or more"
        )
    elif (in_sync := facts.number("min.insync.replicas") or 1) > facts.replication_factor:
        problem = Problem.REFUSES
        detail = (
            f"wants {in_sync} copies in sync and has {facts.replication_factor}: give it more, or "
            "lower min.insync.replicas"
        )
    elif facts.max_message_bytes < message_bytes_min:
        problem = Problem.TOO_SMALL
        detail = (
            f"takes batches of {facts.max_message_bytes} bytes where the scheduler writes up to "
            f"{message_bytes_min}: raise max.message.bytes"
        )
    elif leaderless:
        problem = Problem.LEADERLESS
        detail = f"has no leader for {leaderless} of its {partitions} partitions at the moment"
    return Destination(topic, partitions, facts.max_message_bytes, problem, detail)


def unusable(topic: str, problem: Problem, detail: str) -> Destination:
    """A topic of which nothing is known but why it cannot be used."""
    return Destination(topic, 0, 0, problem, detail)


def forbidden(topic: str, operations: AbstractSet[Operation]) -> str:
    """Which rights are missing where `operations` are what this scheduler has."""
    needed = (Operation.WRITE, Operation.DESCRIBE_CONFIGS)
    missing = [operation for operation in needed if operation not in operations]
    return f"may not be used: {lacks(missing, Resource(Kind.TOPIC, topic))}"


class EgressSurvey:
    """Looks at the wanted topics, one bounded `run_once` at a time; from one thread only."""

    def __init__(
        self,
        connection: Connection,
        names: TopicNames,
        *,
        topics_max: int,
        replication_factor: int,
        min_insync_replicas: int,
        message_bytes_min: int,
    ) -> None:
        self._connection = connection
        self._names = names
        self._topics_max = topics_max
        self._replication_factor = replication_factor
        self._configs = {"cleanup.policy": "delete", "max.message.bytes": str(MESSAGE_BYTES_MAX)}
        if min_insync_replicas > 0:
            self._configs["min.insync.replicas"] = str(min_insync_replicas)
        self._message_bytes_min = message_bytes_min
        self._readings: dict[str, _Reading] = {}

    def run_once(
        self,
        wanted: Mapping[str, int],
        suspects: AbstractSet[str],
        idle: AbstractSet[str],
        now_seconds: float,
    ) -> Findings:
        """Look at every topic of `wanted` (topic to partitions on creation), `suspects` closely.

        One of `idle` is not created where it is missing; nothing is found of it then.
        Raises `KafkaAway` where no broker answers.
        """
        cluster = self._connection.metadata(ANSWER_SECONDS_MAX)
        seen = {topic: cluster.topics[topic] for topic in wanted if topic in cluster.topics}
        existing = {topic: metadata for topic, metadata in seen.items() if not metadata.error}
        missing = {topic: wanted[topic] for topic in wanted if topic not in seen}
        for topic in [topic for topic in missing if topic in idle]:
            self._readings.pop(topic, None)
            del missing[topic]
        for topic in missing:
            # It may come back with other settings.
            self._readings.pop(topic, None)
        refused, hidden = self._create(missing, self._room(cluster, existing))
        self._read([*self._due(existing, suspects, now_seconds), *hidden], now_seconds)
        for topic in hidden:
            # That it cannot be created says nothing of one that is there and may not be seen.
            reading = self._readings.get(topic)
            if reading is not None and isinstance(reading.facts, TopicRefusal):
                refused.pop(topic, None)
        found: dict[str, Destination] = {}
        for topic in wanted:
            if topic in idle and topic not in seen:
                continue
            if topic in refused:
                found[topic] = refused[topic]
            elif (reading := self._readings.get(topic)) is not None:
                found[topic] = self._destination(topic, existing.get(topic), reading.facts)
            else:
                found[topic] = unusable(topic, Problem.UNKNOWN, "is being looked at")
        soon = any(d.problem is Problem.UNKNOWN for d in found.values())
        return Findings(found, soon)

    def _room(self, cluster: ClusterMetadata, existing: Mapping[str, TopicMetadata]) -> int:
        """How many topics may be created before the limit; egress topics of before count too."""
        prefix = self._names.egress_prefix
        egress = {topic for topic in cluster.topics if topic.startswith(prefix)} | existing.keys()
        return max(0, self._topics_max - len(egress))

    def _create(
        self, missing: Mapping[str, int], room: int
    ) -> tuple[dict[str, Destination], list[str]]:
        """Create `missing`; returns what was refused, and what may exist although it is not shown.

        A topic can be both: who may neither create nor see it is not told whether there is one.
        """
        refused: dict[str, Destination] = {}
        hidden: list[str] = []
        asked = list(missing)[: min(room, CREATIONS_PER_SURVEY_MAX)]
        for topic in list(missing)[room:]:
            detail = (
                f"would be one more than the {self._topics_max} egress topics allowed: correct "
                "the tenant's name, remove old topics, or raise egress_topics_max"
            )
            refused[topic] = unusable(topic, Problem.LIMIT, detail)
        if not asked:
            return refused, hidden
        configs = self._configs
        factor = self._replication_factor
        answers = self._connection.client.create_topics(
            [NewTopic(t, missing[t], replication_factor=factor, config=configs) for t in asked],
            request_timeout=ANSWER_SECONDS_MAX,
        )
        for topic, future in answers.items():
            refusal = self._connection.outcome(future, ANSWER_SECONDS_MAX)
            if refusal is None:
                continue
            if refusal.code() == KafkaError.TOPIC_ALREADY_EXISTS:
                # Made by somebody just now, or not ours to see: asking for it by name tells.
                hidden.append(topic)
                continue
            problem, fault = Problem.MISSING, refusal_text(refusal)
            if refusal.code() in _FORBIDDEN_CODES:
                hidden.append(topic)
                problem = Problem.FORBIDDEN
                fault = lacks([Operation.CREATE], Resource(Kind.TOPIC, topic))
            detail = f"does not exist and cannot be created: {fault}"
            refused[topic] = unusable(topic, problem, detail)
        return refused, hidden

    def _due(
        self, existing: Mapping[str, TopicMetadata], suspects: AbstractSet[str], now_seconds: float
    ) -> list[str]:
        """The topics to read facts of: all suspects, then the unread, then the oldest readings."""
        first = [topic for topic in existing if topic in suspects]
        unread = [t for t in existing if t not in self._readings and t not in suspects]
        stale = [
            (reading.read_at_seconds, topic)
            for topic in existing
            if topic not in suspects
            and (reading := self._readings.get(topic)) is not None
            and now_seconds - reading.read_at_seconds >= self._facts_seconds(reading.facts)
        ]
        rest = unread + [topic for _, topic in sorted(stale)]
        return first + rest[:FACTS_PER_SURVEY_MAX]

    def _facts_seconds(self, facts: TopicFacts | TopicRefusal) -> float:
        """How long `facts` hold: less where they keep a tenant waiting."""
        if isinstance(facts, TopicRefusal):
            return FAULTY_FACTS_SECONDS
        good = judge(facts.topic, 1, 0, facts, self._message_bytes_min).problem is None
        return FACTS_SECONDS if good else FAULTY_FACTS_SECONDS

    def _read(self, topics: list[str], now_seconds: float) -> None:
        for topic, facts in self._connection.facts(topics, ANSWER_SECONDS_MAX).items():
            if isinstance(facts, TopicRefusal) and facts.is_missing:
                self._readings.pop(topic, None)
            else:
                self._readings[topic] = _Reading(facts, now_seconds)

    def _destination(
        self, topic: str, metadata: TopicMetadata | None, facts: TopicFacts | TopicRefusal
    ) -> Destination:
        if isinstance(facts, TopicRefusal):
            if facts.is_of_rights:
                return unusable(topic, Problem.FORBIDDEN, forbidden(topic, facts.operations))
            detail = f"cannot be looked at: {refusal_text(facts.error)}"
            return unusable(topic, Problem.UNKNOWN, detail)
        if metadata is None:
            return unusable(topic, Problem.UNKNOWN, "is being looked at")
        leaderless = sum(p.leader < 0 for p in metadata.partitions.values())
        count = len(metadata.partitions)
        return judge(topic, count, leaderless, facts, self._message_bytes_min)
