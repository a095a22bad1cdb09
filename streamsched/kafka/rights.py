"""Who needs which rights on a cluster that asks: the one list of them.

Commands print it, documents and tests are held to it, and a scheduler compares it with what it has.
Kafka implies Describe in Read and Write, and DescribeConfigs in AlterConfigs, so these are not
listed beside them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from streamsched.core.names import TopicNames

REMEDY: Final = "grant what `streamsched topics plan --acls` prints"


class Role(StrEnum):
    """What a program or a person has to do with an installation."""

    SCHEDULER = "scheduler"  #: `streamsched run`
    PRODUCER = "producer"  #: submits and cancels jobs
    WORKER = "worker"  #: reads dispatched jobs
    OPERATOR = "operator"  #: makes the topics, publishes settings
    OBSERVER = "observer"  #: reads what became of jobs


class Kind(StrEnum):
    """What a right is about, as `kafka-acls` spells its options."""

    TOPIC = "topic"
    GROUP = "group"
    TRANSACTIONAL_ID = "transactional-id"


class Operation(StrEnum):
    """What may be done with it, as `kafka-acls` spells it."""

    READ = "Read"
    WRITE = "Write"
    CREATE = "Create"
    DESCRIBE = "Describe"
    DESCRIBE_CONFIGS = "DescribeConfigs"
    ALTER_CONFIGS = "AlterConfigs"


@dataclass(frozen=True, slots=True)
class Resource:
    """One thing by its name, or all whose names begin so."""

    kind: Kind
    name: str
    prefixed: bool = False

    @property
    def pattern(self) -> str:
        """How the name is meant, as Kafka spells it."""
        return "prefixed" if self.prefixed else "literal"

    def __str__(self) -> str:
        """For a sentence."""
        words = self.kind.replace("-", " ")
        return f"{words} {self.name}{'*' if self.prefixed else ''}"


@dataclass(frozen=True, slots=True)
class Right:
    """One operation on one resource, and what cannot be done without it."""

    resource: Resource
    operation: Operation
    why: str


def lacks(operations: Iterable[Operation], resource: Resource) -> str:
    """What to say where rights on a resource are missing: which, on what, and the remedy."""
    *rest, last = (operation.value for operation in operations)
    listed = f"{', '.join(rest)} and {last}" if rest else last
    return f"this user lacks {listed} on {resource}: {REMEDY}"


def rights_of(
    role: Role,
    names: TopicNames,
    *,
    egress_topics: Sequence[str] = (),
    tenants: Sequence[str] = (),
    groups: Sequence[str] = (),
) -> tuple[Right, ...]:
    """All that `role` needs, and nothing more.

    `egress_topics` are those that tenants name elsewhere than under `names.egress_prefix`. A worker
    reads the egress topics of all tenants, unless its `tenants` are given; so does a producer write
    to ingress topics of single tenants, where there are such. `groups` are those of
    workers and observers; without, theirs begin with `names.worker_group_prefix` and
    `names.observer_group_prefix`.
    """
    if role is Role.SCHEDULER:
        return (
            *_scheduler_at_home(names),
            *scheduler_at_tenant_topics(names),
            *_scheduler_at_egress(names, egress_topics),
        )
    if role is Role.PRODUCER:
        return tuple(
            Right(resource, Operation.WRITE, "submits and cancels jobs")
            for resource in _ingress(names, tenants)
        )
    if role is Role.WORKER:
        own = [_topic(names.egress(tenant)) for tenant in tenants]
        egress = [*(own or [_topics(names.egress_prefix)]), *map(_topic, egress_topics)]
        return (
            *(Right(resource, Operation.READ, "reads dispatched jobs") for resource in egress),
            *_groups(groups, names.worker_group_prefix),
            *_settings_reader(names, "looks up which topic a tenant's jobs go to"),
        )
    if role is Role.OPERATOR:
        return _operator(names, tenants)
    outcomes = (
        (names.rejected, "reads records that were refused"),
        (names.dead_letters, "reads jobs that were not dispatched"),
        (names.events, "reads outcomes"),
    )
    return (
        *(Right(_topic(topic), Operation.READ, why) for topic, why in outcomes),
        *_groups(groups, names.observer_group_prefix),
    )


def scheduler_at_tenant_topics(names: TopicNames) -> tuple[Right, ...]:
    """What a scheduler needs for the ingress topics of single tenants, where there are such."""
    if not names.tenant_ingress:
        return ()
    return (
        Right(
            _topics(names.tenant_jobs_prefix),
            Operation.READ,
            "reads what comes in for single tenants",
        ),
        Right(
            Resource(Kind.GROUP, names.tenant_jobs_group),
            Operation.READ,
            "shares these topics with other schedulers, and hands each record on once",
        ),
    )


def kafka_acls_commands(
    rights: Iterable[Right], principal: str, bootstrap_servers: str
) -> list[tuple[list[Right], list[str]]]:
    """Words of Kafka's own command that grant `rights` to `principal`, after what each grants.

    One for all resources of a kind with the same operations: each starts a Java. The file
    `admin.properties` has the options of a client that may grant.
    """
    rights = list(rights)
    operations: dict[Resource, list[Operation]] = {}
    for right in rights:
        operations.setdefault(right.resource, []).append(right.operation)
    alike: dict[tuple[Kind, bool, tuple[Operation, ...]], list[Right]] = {}
    for right in rights:
        resource = right.resource
        key = (resource.kind, resource.prefixed, tuple(operations[resource]))
        alike.setdefault(key, []).append(right)
    return [
        (
            granted,
            [
                *("kafka-acls.sh", "--bootstrap-server", bootstrap_servers),
                *("--command-config", "admin.properties", "--add", "--allow-principal", principal),
                *(word for one in allowed for word in ("--operation", one.value)),
                *(
                    word
                    for name in dict.fromkeys(right.resource.name for right in granted)
                    for word in (f"--{kind}", name)
                ),
                *(("--resource-pattern-type", "prefixed") if prefixed else ()),
            ],
        )
        for (kind, prefixed, allowed), granted in alike.items()
    ]


def _topic(name: str) -> Resource:
    return Resource(Kind.TOPIC, name)


def _topics(prefix: str) -> Resource:
    return Resource(Kind.TOPIC, prefix, prefixed=True)


def _scheduler_at_home(names: TopicNames) -> tuple[Right, ...]:
    """On what is its own; without any of it, it cannot run."""
    reads = (
        (names.jobs, "reads jobs and cancels"),
        (names.tenant_settings, "follows the settings of tenants"),
        (names.changelog, "rebuilds its state, and follows that of others"),
    )
    writes = (
        (names.jobs, "moves jobs that were sent to another partition than their tenant's"),
        (names.changelog, "notes each change of its state"),
        (names.rejected, "sets refused records aside"),
        (names.dead_letters, "sets jobs aside that are not dispatched"),
        (names.events, "tells outcomes"),
    )
    looked_at = dict.fromkeys(topic for topic, _ in (*reads, *writes))
    return (
        *(Right(_topic(topic), Operation.READ, why) for topic, why in reads),
        *(Right(_topic(topic), Operation.WRITE, why) for topic, why in writes),
        *(
            Right(_topic(topic), Operation.DESCRIBE_CONFIGS, "checks that the topic is fit")
            for topic in looked_at
        ),
        Right(
            Resource(Kind.GROUP, names.group),
            Operation.READ,
            "shares the partitions with other schedulers, and notes how far it has read",
        ),
        Right(
            Resource(Kind.TRANSACTIONAL_ID, names.transactional_id_prefix, prefixed=True),
            Operation.WRITE,
            "writes all of a cycle or nothing, and shuts a former owner out",
        ),
    )


def _ingress(names: TopicNames, tenants: Sequence[str]) -> Sequence[Resource]:
    if not names.tenant_ingress:
        return [_topic(names.jobs)]
    return [*map(_topic, map(names.ingress, tenants))] or [_topics(names.tenant_jobs_prefix)]


def _scheduler_at_egress(names: TopicNames, egress_topics: Sequence[str]) -> tuple[Right, ...]:
    reasons = (
        (Operation.WRITE, "dispatches jobs"),
        (Operation.DESCRIBE_CONFIGS, "looks whether the topic takes its jobs"),
        (
            Operation.CREATE,
            "creates the topic when it is first needed; not wanted where others create it",
        ),
    )
    return tuple(
        Right(resource, operation, why)
        for resource in (_topics(names.egress_prefix), *map(_topic, egress_topics))
        for operation, why in reasons
    )


def _operator(names: TopicNames, tenants: Sequence[str]) -> tuple[Right, ...]:
    settings = _topic(names.tenant_settings)
    own = [
        *(_topic(names.jobs), settings, _topic(names.rejected)),
        *(_topic(names.dead_letters), _topic(names.events), _topic(names.changelog)),
        *(_ingress(names, tenants) if names.tenant_ingress else ()),
    ]
    reasons = (
        (Operation.DESCRIBE, "sees whether the topic is there, and its partitions"),
        (Operation.CREATE, "creates the topic"),
        (Operation.ALTER_CONFIGS, "sees and corrects the topic's configuration"),
    )
    return (
        *(
            Right(topic, operation, why)
            for operation, why in reasons
            for topic in own
            # Read and Write bring it.
            if (topic, operation) != (settings, Operation.DESCRIBE)
        ),
        Right(settings, Operation.WRITE, "publishes settings"),
        *_settings_reader(names, "lists settings, and changes one field of them"),
    )


def _settings_reader(names: TopicNames, why: str) -> tuple[Right, ...]:
    """Reading the settings with the SDK, which takes a consumer of its own each time."""
    return (
        Right(_topic(names.tenant_settings), Operation.READ, why),
        Right(
            Resource(Kind.GROUP, names.reader_group_prefix, prefixed=True),
            Operation.DESCRIBE,
            "reads without a group: Kafka's clients ask for one all the same",
        ),
    )


def _groups(groups: Sequence[str], prefix: str) -> tuple[Right, ...]:
    resources = [Resource(Kind.GROUP, group) for group in groups]
    return tuple(
        Right(resource, Operation.READ, "shares partitions in a group, which notes how far it is")
        for resource in resources or [Resource(Kind.GROUP, prefix, prefixed=True)]
    )
