"""The scheduler's own topics: what is missing or differs, creating it, refusing to run on it.

Nothing here deletes a topic or changes a partition count: both would move tenants to other
partitions or lose jobs.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from confluent_kafka import KafkaError, TopicCollection
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from streamsched.core.limits import MESSAGE_BYTES_MAX
from streamsched.core.names import TopicNames
from streamsched.kafka.connection import Connection, KafkaProblem, TopicFacts, refusal_text
from streamsched.kafka.rights import Kind, Operation, Resource, lacks
from streamsched.settings import Settings

Where = Settings | Mapping[str, Any]
"""Settings, or options of a librdkafka client."""

PARTITIONS: Final = 4
ANSWER_SECONDS_MAX: Final = 10.0

_APPLY_FIRST: Final = "run `streamsched topics apply`"

_REMEDIES: Final = {
    KafkaError.INVALID_REPLICATION_FACTOR: "ask for fewer copies with --replication-factor",
}

# The length of the changelog is what a recovery without state reads, so it is compacted early and
# in small steps. What is never compacted is the last segment of each partition, so segments are
# small; a quiet partition closes its own after an hour. Records that are out of date are at most
# 3 in 10 of the rest. And each job that has left is a tombstone for `delete.retention.ms` more: a
# day of them would be 86 million at 1,000 jobs/s. It is no shorter, because local state older than
# half of it is rebuilt, and whoever reads the log must come to its end within it.
CHANGELOG_CONFIGS: Final = {
    "delete.retention.ms": str(60 * 60_000),
    "segment.bytes": str(16 * 1024 * 1024),
    "segment.ms": str(3_600_000),
    "min.cleanable.dirty.ratio": "0.3",
}


class State(StrEnum):
    """How a topic stands to what is wanted."""

    OK = "ok"
    MISSING = "missing"
    DIFFERS = "differs"


@dataclass(frozen=True, slots=True)
class Difference:
    """One property of a topic that is not as wanted; `fixable` where `apply` changes it."""

    name: str
    wanted: str
    found: str
    fixable: bool


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """One topic as wanted, and how it stands. `configs` are what it is created with."""

    topic: str
    partitions: int
    configs: Mapping[str, str]
    state: State
    differences: tuple[Difference, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """All topics of one installation."""

    topics: tuple[TopicPlan, ...]
    replication_factor: int

    @property
    def complete(self) -> bool:
        """Whether there is nothing to do and nothing wrong."""
        return all(topic.state is State.OK for topic in self.topics)


@dataclass(frozen=True, slots=True)
class Applied:
    """What `apply` did, and the plan after it: what is not OK there needs a person."""

    created: tuple[str, ...]
    changed: tuple[str, ...]
    after: Plan


@dataclass(frozen=True, slots=True)
class _Wanted:
    topic: str
    partitions: int
    cleanup_policy: str
    exact_partitions: bool = False
    configs: Mapping[str, str] = field(default_factory=dict)


def plan(
    where: Where,
    names: TopicNames,
    partitions: int | None = None,
    replication_factor: int = -1,
) -> Plan:
    """Compare the cluster with what the scheduler needs; changes nothing.

    `partitions` of the ingress topic are 4 unless given; where that topic exists, its own count
    holds. `replication_factor` -1 is the broker's default. Raises `KafkaProblem`.
    """
    return _plan(Connection(where), names, partitions, replication_factor)


def apply(
    where: Where,
    names: TopicNames,
    partitions: int | None = None,
    replication_factor: int = -1,
) -> Applied:
    """Create what is missing and correct the settings that can be corrected in place.

    Raises `KafkaProblem` where the broker refuses.
    """
    connection = Connection(where)
    before = _plan(connection, names, partitions, replication_factor)
    created = _create(connection, before)
    changed = _correct(connection, before)
    # The controller has them now; the broker that answers us may take a moment longer.
    deadline = time.monotonic() + ANSWER_SECONDS_MAX
    while True:
        after = _plan(connection, names, partitions, replication_factor)
        settled = all(
            topic.state is not State.MISSING and not any(d.fixable for d in topic.differences)
            for topic in after.topics
        )
        if settled or time.monotonic() > deadline:
            return Applied(created, changed, after)
        time.sleep(0.05)


def check(where: Where, names: TopicNames) -> tuple[str, ...]:
    """One sentence for each topic that a scheduler could not run on; empty when all is well.

    Raises `KafkaProblem` where Kafka does not answer within about 10 s.
    """
    found = _plan(Connection(where), names, None, -1)
    return tuple(sentence for topic in found.topics for sentence in _sentences(topic))


def topic_ids(admin: AdminClient, names: Iterable[str]) -> dict[str, str]:
    """The id of each topic that exists; it changes when a topic is deleted and made again.

    Blocks for up to 10 s; raises `KafkaException` where the broker does not answer.
    """
    wanted = list(names)
    if not wanted:
        return {}
    described = admin.describe_topics(TopicCollection(wanted), request_timeout=ANSWER_SECONDS_MAX)
    found: dict[str, str] = {}
    for name, future in described.items():
        error = future.exception(ANSWER_SECONDS_MAX + 1)
        if error is None:
            found[name] = str(future.result().topic_id)
        elif error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise error
    return found


def _wanted(names: TopicNames, partitions: int) -> tuple[_Wanted, ...]:
    n = partitions
    return (
        _Wanted(names.jobs, n, "delete", exact_partitions=True),
        _Wanted(names.tenant_settings, 1, "compact", exact_partitions=True),
        _Wanted(names.rejected, n, "delete"),
        _Wanted(names.dead_letters, n, "delete"),
        _Wanted(names.events, n, "delete"),
        _Wanted(names.changelog, n, "compact", exact_partitions=True, configs=CHANGELOG_CONFIGS),
    )


def _plan(
    connection: Connection, names: TopicNames, partitions: int | None, replication_factor: int
) -> Plan:
    connection.refuse_hopeless()
    # Asked first for its clear answer when Kafka is away; the rest would take longer to fail.
    connection.metadata(ANSWER_SECONDS_MAX)
    # By name: the list of all topics leaves out, without a word, those that we may not see.
    own = [wanted.topic for wanted in _wanted(names, PARTITIONS)]
    facts: dict[str, TopicFacts] = {}
    for topic, found in connection.facts(own, ANSWER_SECONDS_MAX).items():
        if isinstance(found, TopicFacts):
            facts[topic] = found
        elif found.is_of_rights:
            looking = (Operation.DESCRIBE, Operation.DESCRIBE_CONFIGS)
            missing = [operation for operation in looking if operation not in found.operations]
            raise KafkaProblem(
                f"topic {topic} cannot be looked at: {lacks(missing, Resource(Kind.TOPIC, topic))}"
            )
        elif not found.is_missing:
            raise KafkaProblem(f"topic {topic} cannot be looked at: {refusal_text(found.error)}")
    ingress = facts.get(names.jobs) or facts.get(names.changelog)
    count = ingress.partitions if ingress else partitions or PARTITIONS
    plans = []
    for wanted in _wanted(names, count):
        asked = partitions if ingress and wanted.topic == ingress.topic else None
        plans.append(_compare(wanted, facts.get(wanted.topic), asked, replication_factor))
    return Plan(tuple(plans), replication_factor)


def _compare(
    wanted: _Wanted, found: TopicFacts | None, asked: int | None, replication_factor: int
) -> TopicPlan:
    configs = {
        "cleanup.policy": wanted.cleanup_policy,
        "max.message.bytes": str(MESSAGE_BYTES_MAX),
        **wanted.configs,
    }
    if found is None:
        return TopicPlan(wanted.topic, wanted.partitions, configs, State.MISSING)
    differences = []
    count = asked or wanted.partitions
    if (wanted.exact_partitions or asked) and found.partitions != count:
        differences.append(Difference("partitions", str(count), str(found.partitions), False))
    if replication_factor > 0 and found.replication_factor != replication_factor:
        differences.append(
            Difference(
                "replication factor", str(replication_factor), str(found.replication_factor), False
            )
        )
    policy = found.configs["cleanup.policy"]
    if policy != wanted.cleanup_policy:
        differences.append(Difference("cleanup.policy", wanted.cleanup_policy, policy, True))
    # More than we need does no harm.
    if found.max_message_bytes < MESSAGE_BYTES_MAX:
        bytes_found = str(found.max_message_bytes)
        differences.append(
            Difference("max.message.bytes", str(MESSAGE_BYTES_MAX), bytes_found, True)
        )
    state = State.DIFFERS if differences else State.OK
    return TopicPlan(wanted.topic, found.partitions, configs, state, tuple(differences))


def _create(connection: Connection, before: Plan) -> tuple[str, ...]:
    missing = [
        NewTopic(
            topic.topic,
            num_partitions=topic.partitions,
            replication_factor=before.replication_factor,
            config=dict(topic.configs),
        )
        for topic in before.topics
        if topic.state is State.MISSING
    ]
    if not missing:
        return ()
    created = []
    for topic, future in connection.client.create_topics(
        missing, request_timeout=ANSWER_SECONDS_MAX
    ).items():
        refusal = connection.outcome(future, ANSWER_SECONDS_MAX)
        if refusal is None:
            created.append(topic)
        elif refusal.code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise KafkaProblem(
                f"topic {topic} cannot be created: {_fault(refusal, topic, Operation.CREATE)}"
            )
    return tuple(created)


def _correct(connection: Connection, before: Plan) -> tuple[str, ...]:
    resources = []
    for topic in before.topics:
        entries = [
            ConfigEntry(d.name, d.wanted, incremental_operation=AlterConfigOpType.SET)
            for d in topic.differences
            if d.fixable
        ]
        if entries:
            resources.append(
                ConfigResource(ResourceType.TOPIC, topic.topic, incremental_configs=entries)
            )
    if not resources:
        return ()
    changed = []
    for resource, future in connection.client.incremental_alter_configs(
        resources, request_timeout=ANSWER_SECONDS_MAX
    ).items():
        refusal = connection.outcome(future, ANSWER_SECONDS_MAX)
        if isinstance(refusal, KafkaError):
            raise KafkaProblem(
                f"configuration of topic {resource.name} cannot be changed: "
                + _fault(refusal, resource.name, Operation.ALTER_CONFIGS)
            )
        changed.append(resource.name)
    return tuple(changed)


def _fault(refusal: KafkaError, topic: str, operation: Operation) -> str:
    """Why the broker refuses an operation: in its words, or by the right that is missing."""
    if refusal.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
        return lacks([operation], Resource(Kind.TOPIC, topic))
    remedy = _REMEDIES.get(refusal.code())
    return refusal_text(refusal) + (f"; {remedy}" if remedy else "")


def _sentences(topic: TopicPlan) -> list[str]:
    if topic.state is State.MISSING:
        return [f"topic {topic.topic} is missing: {_APPLY_FIRST}"]
    return [
        f"topic {topic.topic} has {d.name} {d.found} where {d.wanted} is needed: "
        + (_APPLY_FIRST if d.fixable else "create it anew with that, or use another app_id")
        for d in topic.differences
    ]
