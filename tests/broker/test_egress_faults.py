"""One tenant's egress topic is broken while jobs flow: nobody else is stopped, and it goes on."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Message
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourcePatternType,
    ResourceType,
)

from streamsched.core.destinations import Problem
from streamsched.kafka.embedded import EmbeddedKafka
from tests.broker.cluster import await_condition, create_topic, delete_topic, partition_count
from tests.broker.installation import Installation, installed
from tests.broker.reading import job_id, lateness_ms, read_events, read_topics
from tests.broker.sending import Sender, tenants_of

PARTITIONS = 2
TOPICS_MAX = 16
PERIOD_SECONDS = 0.02
BYSTANDERS = tenants_of(0, PARTITIONS, 1, "neighbour") + tenants_of(1, PARTITIONS, 1, "neighbour")
"""One tenant on each ingress partition, so one of them shares its cycles with the broken one."""


@pytest.fixture(scope="module")
def it(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A scheduler that may have few egress topics."""
    folder = tmp_path_factory.mktemp("egress")
    with installed(
        kafka, folder, partitions=PARTITIONS, egress_topics_max=str(TOPICS_MAX)
    ) as running:
        yield running


class Traffic:
    """A steady flow of jobs, due at once, over some tenants; each job counted."""

    def __init__(self, it: Installation, tenants: list[str]) -> None:
        self.sent: dict[str, list[str]] = {tenant: [] for tenant in tenants}
        self._sender = Sender(it.kafka, it.names)
        self._stopping = threading.Event()
        self._label = f"{time.time_ns()}"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._stopping.wait(PERIOD_SECONDS):
            for tenant, ids in self.sent.items():
                name = f"{self._label}-{number}"
                self._sender.job(tenant, name, value=b"x" * 300)
                ids.append(name)
            number += 1

    def stop(self) -> None:
        """End it, everything delivered."""
        self._stopping.set()
        self._thread.join()
        self._sender.flush()


@contextmanager
def flowing(it: Installation, broken: str) -> Iterator[Traffic]:
    """Traffic of the bystanders and of one tenant that will be in trouble.

    In the end every job of all of them must have left exactly once, by its events, and those of
    the bystanders must be on their topics in the order in which they were sent.
    """
    for tenant in [*BYSTANDERS, broken]:
        it.sender.settings(tenant, events="all")
    it.sender.flush()
    for tenant in [*BYSTANDERS, broken]:
        it.process.await_tenant(tenant, egress_topic=it.names.egress(tenant))
    traffic = Traffic(it, [*BYSTANDERS, broken])
    try:
        yield traffic
    finally:
        traffic.stop()
    for tenant in BYSTANDERS:
        sent = traffic.sent[tenant]
        found = arrived(it, tenant, sent)
        assert [job_id(message) for message in found] == sent
        print(f"{tenant}: {len(found)} jobs, longest lateness {longest(found)} ms")
    await_dispatched_once(it, broken, traffic.sent[broken])


def arrived(it: Installation, tenant: str, ids: list[str]) -> list[Message]:
    """The records of these jobs, once all of them are there."""
    mine = set(ids)
    return it.committed(it.names.egress(tenant), len(ids), lambda m: job_id(m) in mine)


def longest(found: list[Message]) -> int:
    """The longest lateness of dispatched jobs, in ms."""
    return max(lateness_ms(message) for message in found)


def dispatches(it: Installation, tenant: str) -> Counter[str]:
    """How often each job of a tenant was dispatched, by its events."""
    return Counter(
        event["id"]
        for event in read_events(it.kafka, it.names.events)
        if event["tenant"] == tenant and event["event"] == "dispatched"
    )


def await_dispatched_once(it: Installation, tenant: str, ids: list[str]) -> None:
    """Wait until every job has left, and see that none did twice."""
    await_condition(
        f"{len(ids)} jobs of {tenant} have left",
        lambda: set(ids) <= dispatches(it, tenant).keys(),
        60,
        it.process.log,
    )
    twice = {name: count for name, count in dispatches(it, tenant).items() if count > 1}
    assert not twice


def await_progress(it: Installation, traffic: Traffic, jobs: int = 25) -> None:
    """Wait until each bystander got that many jobs which were sent from now on."""
    start = {tenant: len(traffic.sent[tenant]) for tenant in BYSTANDERS}
    for tenant in BYSTANDERS:
        await_condition(
            "more was sent",
            lambda t=tenant: len(traffic.sent[t]) >= start[t] + jobs,  # type: ignore[misc]
        )
        fresh = traffic.sent[tenant][start[tenant] : start[tenant] + jobs]
        arrived(it, tenant, fresh)


def unconfigured(it: Installation, tenant: str, problem: Problem, detail: str) -> None:
    """Wait until the tenant is said to be unconfigured, for the right reason."""
    reason = {"text": ""}

    def is_so() -> bool:
        row = it.process.tenant(tenant)
        reason["text"] = str(row)
        return row.get("status") == "unconfigured" and detail in (row["reason"] or "")

    await_condition(
        f"{tenant} is unconfigured ({problem}): {detail}", is_so, 60, lambda: reason["text"]
    )


def set_config(admin: AdminClient, topic: str, name: str, value: str) -> None:
    """Change a topic's configuration."""
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin.incremental_alter_configs([resource])[resource].result(10)


@pytest.mark.timeout(180)
def test_deleted_topic_is_made_again(it: Installation, admin: AdminClient) -> None:
    """What was in the topic is gone with it; everything else leaves once, on a new topic."""
    topic = it.names.egress("deleted")
    with flowing(it, "deleted") as traffic:
        await_progress(it, traffic)
        await_condition("the topic is there", lambda: partition_count(admin, topic) == 1)
        admin.delete_topics([topic])[topic].result(10)
        sent = len(traffic.sent["deleted"])
        await_progress(it, traffic)
        it.process.await_tenant("deleted", status="ok")
        await_condition(
            "jobs flow again",
            lambda: len(read_topics(it.kafka, [topic])) > 10,
            60,
            it.process.log,
        )
    found = Counter(job_id(message) for message in read_topics(it.kafka, [topic]))
    assert max(found.values()) == 1
    # A job that was acknowledged before the deletion was noticed may have gone with the topic;
    # all that were sent since jobs flow again are there.
    later = traffic.sent["deleted"][sent:]
    first = next(index for index, name in enumerate(later) if found[name])
    assert all(found[name] for name in later[first:])


@pytest.mark.timeout(180)
def test_topic_that_became_too_small(it: Installation, admin: AdminClient) -> None:
    """Below the size of a batch: unconfigured, and on its way again once the limit is raised."""
    topic = it.names.egress("small")
    with flowing(it, "small") as traffic:
        await_progress(it, traffic)
        set_config(admin, topic, "max.message.bytes", "350")
        unconfigured(it, "small", Problem.TOO_SMALL, "raise max.message.bytes")
        await_progress(it, traffic)
        set_config(admin, topic, "max.message.bytes", "1048588")
        it.process.await_tenant("small", status="ok")
    found = [job_id(message) for message in read_topics(it.kafka, [topic])]
    assert found == traffic.sent["small"]


@pytest.mark.timeout(180)
def test_job_larger_than_its_topic_takes(it: Installation, admin: AdminClient) -> None:
    """A topic that takes batches but not this job: the tenant waits until it does."""
    topic = it.names.egress("huge")
    create_topic(admin, topic, 1, {"max.message.bytes": "200000"})
    with flowing(it, "huge") as traffic:
        await_progress(it, traffic)
        it.sender.job("huge", "huge-job", value=b"x" * 300_000)
        it.sender.flush()
        unconfigured(it, "huge", Problem.TOO_SMALL, topic)
        await_progress(it, traffic)
        set_config(admin, topic, "max.message.bytes", "1048588")
        await_dispatched_once(it, "huge", ["huge-job"])
    found = Counter(job_id(message) for message in read_topics(it.kafka, [topic]))
    assert found == Counter([*traffic.sent["huge"], "huge-job"])


@pytest.mark.timeout(180)
def test_compacted_topic_is_not_written_to(it: Installation, admin: AdminClient) -> None:
    """Compaction would eat jobs: unconfigured until the topic keeps what it gets."""
    topic = f"{it.names.egress_prefix}compacted-{it.names.app_id}"
    create_topic(admin, topic, 1, {"cleanup.policy": "compact"})
    with flowing(it, "compacted") as traffic:
        await_progress(it, traffic)
        it.sender.settings("compacted", events="all", egress_topic=topic)
        unconfigured(it, "compacted", Problem.COMPACTED, "set cleanup.policy=delete")
        await_progress(it, traffic)
        assert not read_topics(it.kafka, [topic])
        set_config(admin, topic, "cleanup.policy", "delete")
        it.process.await_tenant("compacted", status="ok")
    found = read_topics(it.kafka, [it.names.egress("compacted"), topic])
    assert Counter(job_id(m) for m in found) == Counter(traffic.sent["compacted"])
    delete_topic(admin, topic)


@pytest.mark.timeout(180)
def test_topic_that_cannot_be_created(it: Installation, admin: AdminClient) -> None:
    """Kafka refuses names that differ only in . and _; what it says is shown."""
    taken, wanted = (f"{it.names.egress_prefix}a{sign}b" for sign in "_.")
    create_topic(admin, taken)
    with flowing(it, "colliding") as traffic:
        await_progress(it, traffic)
        it.sender.settings("colliding", events="all", egress_topic=wanted)
        unconfigured(it, "colliding", Problem.MISSING, "does not exist and cannot be created")
        await_progress(it, traffic)
        delete_topic(admin, taken)
        it.process.await_tenant("colliding", status="ok", egress_topic=wanted)
    found = read_topics(it.kafka, [it.names.egress("colliding"), wanted])
    assert Counter(job_id(m) for m in found) == Counter(traffic.sent["colliding"])
    delete_topic(admin, wanted)


@pytest.mark.timeout(180)
def test_no_more_topics_than_allowed(it: Installation, admin: AdminClient) -> None:
    """Beyond `egress_topics_max` a new tenant waits; those that have a topic go on."""
    with flowing(it, "one-of-many") as traffic:
        await_progress(it, traffic)
        fillers: list[str] = []
        while egress_topics(it, admin) < TOPICS_MAX:
            fillers.append(f"{it.names.egress_prefix}filler-{len(fillers)}")
            create_topic(admin, fillers[-1])
        it.sender.job("one-too-many", "a")
        it.sender.flush()
        unconfigured(it, "one-too-many", Problem.LIMIT, f"the {TOPICS_MAX} egress topics allowed")
        await_progress(it, traffic)
        assert egress_topics(it, admin) == TOPICS_MAX
        for topic in fillers:
            delete_topic(admin, topic)
        assert len(it.dispatched("one-too-many", 1)) == 1


def egress_topics(it: Installation, admin: AdminClient) -> int:
    """How many egress topics there are."""
    known = admin.list_topics(timeout=10).topics
    return sum(name.startswith(it.names.egress_prefix) for name in known)


@pytest.mark.timeout(240)
def test_forbidden_topic(tmp_path: Path) -> None:
    """Without the right to write: unconfigured, and on its way again once it is granted."""
    properties = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
        "super.users": "User:admin",
    }
    with (
        EmbeddedKafka(tmp_path / "kafka", properties=properties) as kafka,
        installed(kafka.bootstrap_servers, tmp_path / "run", partitions=PARTITIONS) as it,
    ):
        admin = AdminClient({"bootstrap.servers": it.kafka})
        topic = it.names.egress("forbidden")
        with flowing(it, "forbidden") as traffic:
            await_progress(it, traffic)
            rules = [
                rule(topic, AclOperation.READ, AclPermissionType.ALLOW),
                rule(topic, AclOperation.DESCRIBE, AclPermissionType.ALLOW),
                rule(topic, AclOperation.DESCRIBE_CONFIGS, AclPermissionType.ALLOW),
                rule(topic, AclOperation.WRITE, AclPermissionType.DENY),
            ]
            for future in admin.create_acls(rules).values():
                future.result(10)
            unconfigured(it, "forbidden", Problem.FORBIDDEN, "lacks Write on topic")
            await_progress(it, traffic)
            everything = AclBindingFilter(
                ResourceType.TOPIC,
                topic,
                ResourcePatternType.LITERAL,
                None,  # type: ignore[arg-type]  # anybody
                None,  # type: ignore[arg-type]  # anybody
                AclOperation.ANY,
                AclPermissionType.ANY,
            )
            for deleted in admin.delete_acls([everything]).values():
                deleted.result(10)
            it.process.await_tenant("forbidden", status="ok")
        found = [job_id(message) for message in read_topics(it.kafka, [topic])]
        assert found == traffic.sent["forbidden"]


def rule(topic: str, operation: AclOperation, permission: AclPermissionType) -> AclBinding:
    """A rule for everybody on one topic."""
    return AclBinding(
        *(ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, "User:*", "*"),
        *(operation, permission),
    )
