"""The scheduler's own topics: what is missing or differs, creating it, refusing to run on it.

Nothing here deletes a topic, changes a partition count or lowers a limit: that would move tenants
to other partitions or lose jobs. More than is needed is no difference.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Self

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
from streamsched.kafka.egress_survey import OLDEST_MS_MIN
from streamsched.kafka.rights import Kind, Operation, Resource, lacks
from streamsched.settings import Settings

Where = Settings | Mapping[str, Any]
"""Settings, or options of a librdkafka client."""

PARTITIONS: Final = 4
PARTITIONS_NAME: Final = "partitions"
COPIES_NAME: Final = "replication factor"
MIN_INSYNC: Final = "min.insync.replicas"
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


# A job that is read is in the changelog, so this is how long all schedulers may be away. Kafka's
# default of a week is what a new topic gets; an existing one must last a day, or a night's outage
# would lose jobs. A bound on bytes would do so in a burst, whatever the time.
INGRESS_RETENTION_MS: Final = 7 * 86_400_000
INGRESS_RETENTION_MS_MIN: Final = 86_400_000
INGRESS_CONFIGS: Final = {"retention.ms": str(INGRESS_RETENTION_MS), "retention.bytes": "-1"}

_UNBOUNDED: Final = -1
"""In Kafka's retention settings."""


class State(StrEnum):
    """How a topic stands to what is wanted."""

    OK = "ok"
    MISSING = "missing"
    DIFFERS = "differs"


@dataclass(frozen=True, slots=True)
class Difference:
    """One property of a topic that is not as wanted.

    `fixable` where `apply` changes it; `blocking` where no scheduler can run on the topic.
    """

    name: str
    wanted: str
    found: str
    fixable: bool
    blocking: bool = True

    @property
    def remedy(self) -> str:
        """What to do about it."""
        if self.fixable:
            return _APPLY_FIRST
        if self.name == PARTITIONS_NAME:
            return "create it anew with that, or use another app_id"
        if self.name == MIN_INSYNC:
            return f"give the topic more copies first, or lower {MIN_INSYNC} with kafka-configs.sh"
        return "give the topic more copies with kafka-reassign-partitions.sh"


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
    """All topics of one installation. -1 copies are the broker's default."""

    topics: tuple[TopicPlan, ...]
    replication_factor: int = -1

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
    """A topic as it is created, and what an existing one needs at least."""

    topic: str
    partitions: int
    cleanup_policy: str
    exact_partitions: bool = False
    configs: Mapping[str, str] = field(default_factory=dict)
    at_least: tuple["_AtLeast", ...] = ()


@dataclass(frozen=True, slots=True)
class _AtLeast:
    """A number in a topic's configuration that must not be smaller."""

    name: str
    value: int
    blocking: bool = False


def plan(
    where: Where,
    names: TopicNames,
    partitions: int | None = None,
    tenants: Iterable[str] = (),
) -> Plan:
    """Compare the cluster with what the scheduler needs; changes nothing.

    `partitions` of the ingress topic are 4 unless given; where that topic exists, its own count
    holds. `tenants` are those whose own ingress topics are wanted as well. Copies are those of the
    settings. Raises `KafkaProblem`, also where there are fewer brokers than a topic to be created
    shall have copies.
    """
    wanted = _Wish(names, partitions, tuple(tenants))
    return _plan(Connection(where), wanted, _Copies.of(where))


def apply(
    where: Where,
    names: TopicNames,
    partitions: int | None = None,
    tenants: Iterable[str] = (),
) -> Applied:
    """Create what is missing and correct the settings that can be corrected in place.

    The arguments are those of `plan`. Raises `KafkaProblem` where the broker refuses.
    """
    connection, copies = Connection(where), _Copies.of(where)
    wish = _Wish(names, partitions, tuple(tenants))
    before = _plan(connection, wish, copies)
    created = _create(connection, before)
    changed = _correct(connection, before)
    # The controller has them now; the broker that answers us may take a moment longer.
    deadline = time.monotonic() + ANSWER_SECONDS_MAX
    while True:
        after = _plan(connection, wish, copies)
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
    return faults_of(_plan(Connection(where), _Wish(names), _Copies()))


def faults_of(found: Plan) -> tuple[str, ...]:
    """What of a plan keeps a scheduler from running, a sentence each."""
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


@dataclass(frozen=True, slots=True)
class _Copies:
    """How many a record shall have, and how many must have it; -1 is the broker's default."""

    replication_factor: int = -1
    min_insync_replicas: int = -1

    @classmethod
    def of(cls, where: Where) -> Self:
        if not isinstance(where, Settings):
            return cls()
        return cls(where.replication_factor, where.min_insync_replicas)


@dataclass(frozen=True, slots=True)
class _Wish:
    """What was asked for: the topics of `names`, and ingress topics of `tenants`' own."""

    names: TopicNames
    partitions: int | None = None
    tenants: tuple[str, ...] = ()


def _wanted(wish: _Wish, partitions: int) -> tuple[_Wanted, ...]:
    names, n = wish.names, partitions
    retention = _AtLeast("retention.ms", INGRESS_RETENTION_MS_MIN)
    tombstones = _AtLeast("delete.retention.ms", int(CHANGELOG_CONFIGS["delete.retention.ms"]))
    return (
        _Wanted(
            names.jobs,
            n,
            "delete",
            exact_partitions=True,
            configs=INGRESS_CONFIGS,
            at_least=(retention,),
        ),
        _Wanted(names.tenant_settings, 1, "compact", exact_partitions=True),
        _Wanted(names.rejected, n, "delete"),
        _Wanted(names.dead_letters, n, "delete"),
        _Wanted(names.events, n, "delete"),
        _Wanted(
            names.changelog,
            n,
            "compact",
            exact_partitions=True,
            configs=CHANGELOG_CONFIGS,
            at_least=(tombstones,),
        ),
        *(
            _Wanted(
                f"{names.tenant_jobs_prefix}{tenant}",
                1,
                "delete",
                configs=INGRESS_CONFIGS,
                at_least=(retention,),
            )
            for tenant in wish.tenants
        ),
    )


_EVERYWHERE: Final = (
    _AtLeast("max.message.bytes", MESSAGE_BYTES_MAX, blocking=True),
    # A topic that refuses the marker of a transaction keeps it, and all after it, from ending.
    _AtLeast("message.timestamp.before.max.ms", OLDEST_MS_MIN, blocking=True),
    _AtLeast("message.timestamp.after.max.ms", OLDEST_MS_MIN),
)
"""What every topic of ours needs; brokers before 3.6 know no such limits of timestamps."""


def _plan(connection: Connection, wish: _Wish, copies: _Copies) -> Plan:
    connection.refuse_hopeless()
    # Asked first for its clear answer when Kafka is away; the rest would take longer to fail.
    cluster = connection.metadata(ANSWER_SECONDS_MAX)
    # By name: the list of all topics leaves out, without a word, those that we may not see.
    own = [wanted.topic for wanted in _wanted(wish, PARTITIONS)]
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
    ingress = facts.get(wish.names.jobs) or facts.get(wish.names.changelog)
    count = ingress.partitions if ingress else wish.partitions or PARTITIONS
    plans = []
    for wanted in _wanted(wish, count):
        asked = wish.partitions if ingress and wanted.topic == ingress.topic else None
        plans.append(_compare(wanted, facts.get(wanted.topic), asked, copies))
    _refuse_too_many_copies(plans, copies.replication_factor, len(cluster.brokers))
    return Plan(tuple(plans), copies.replication_factor)


def _refuse_too_many_copies(plans: Iterable[TopicPlan], copies: int, brokers: int) -> None:
    missing = [topic.topic for topic in plans if topic.state is State.MISSING]
    if missing and copies > brokers:
        raise KafkaProblem(
            f"topic {missing[0]} cannot be created: replication factor {copies} needs as many "
            f"brokers, and {brokers} {'is' if brokers == 1 else 'are'} there: start the others, "
            "or lower STREAMSCHED_REPLICATION_FACTOR"
        )


def _compare(
    wanted: _Wanted, found: TopicFacts | None, asked: int | None, copies: _Copies
) -> TopicPlan:
    configs = {
        "cleanup.policy": wanted.cleanup_policy,
        "max.message.bytes": str(MESSAGE_BYTES_MAX),
        **wanted.configs,
    }
    if copies.min_insync_replicas > 0:
        configs[MIN_INSYNC] = str(copies.min_insync_replicas)
    if found is None:
        return TopicPlan(wanted.topic, wanted.partitions, configs, State.MISSING)
    differences = []
    count = asked or wanted.partitions
    if (wanted.exact_partitions or asked) and found.partitions != count:
        differences.append(
            Difference(PARTITIONS_NAME, str(count), str(found.partitions), fixable=False)
        )
    differences += _copies_compared(found, copies)
    policy = found.configs["cleanup.policy"]
    if policy != wanted.cleanup_policy:
        differences.append(
            Difference("cleanup.policy", wanted.cleanup_policy, policy, fixable=True)
        )
    for limit in (*_EVERYWHERE, *wanted.at_least):
        value = found.number(limit.name)
        if value is not None and _UNBOUNDED < value < limit.value:
            differences.append(
                Difference(
                    limit.name, str(limit.value), str(value), fixable=True, blocking=limit.blocking
                )
            )
    if "retention.bytes" in wanted.configs and (
        found.number("retention.bytes") not in {None, _UNBOUNDED}
    ):
        bytes_found = found.configs["retention.bytes"]
        differences.append(
            Difference(
                "retention.bytes", str(_UNBOUNDED), bytes_found, fixable=True, blocking=False
            )
        )
    state = State.DIFFERS if differences else State.OK
    return TopicPlan(wanted.topic, found.partitions, configs, state, tuple(differences))


def _copies_compared(found: TopicFacts, copies: _Copies) -> list[Difference]:
    """Copies that are missing, and a number in sync that is too low, or too high for the copies."""
    have, wanted = found.replication_factor, copies.replication_factor
    differences = []
    if have < wanted:
        differences.append(
            Difference(COPIES_NAME, str(wanted), str(have), fixable=False, blocking=False)
        )
    in_sync, in_sync_wanted = int(found.configs[MIN_INSYNC]), copies.min_insync_replicas
    if in_sync > have:
        differences.append(Difference(MIN_INSYNC, f"at most {have}", str(in_sync), fixable=False))
    elif in_sync < in_sync_wanted:
        # With more than there are copies nothing could be written any more.
        possible = in_sync_wanted <= have
        differences.append(
            Difference(
                MIN_INSYNC, str(in_sync_wanted), str(in_sync), fixable=possible, blocking=False
            )
        )
    return differences


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
        f"topic {topic.topic} has {d.name} {d.found} where {d.wanted} is needed: {d.remedy}"
        for d in topic.differences
        if d.blocking
    ]
