"""The egress directory on a real Kafka: what it creates, notices, and keeps through an outage."""

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    ResourcePatternType,
    ResourceType,
)

from streamsched.core.destinations import Destination, Problem
from streamsched.core.limits import MESSAGE_BYTES_MAX
from streamsched.core.names import TopicNames
from streamsched.kafka import egress_survey
from streamsched.kafka.connection import Connection, KafkaProblem, TopicFacts, TopicRefusal
from streamsched.kafka.directory import EgressDirectory
from streamsched.kafka.embedded import EmbeddedKafka
from streamsched.settings import Settings
from tests.broker.cluster import (
    await_condition,
    create_topic,
    delete_topic,
    partition_count,
)
from tests.connecting import client_settings


class StartDirectory(Protocol):
    """Starts a directory that the test's end stops."""

    def __call__(
        self,
        address: str | None = None,
        *,
        topics_max: int = 100,
        replication_factor: int = -1,
        message_bytes_min: int = 0,
        on_change: Callable[[], None] | None = None,
    ) -> EgressDirectory: ...


@pytest.fixture
def names(app_id: str) -> TopicNames:
    """Topic names of this test alone."""
    return TopicNames(app_id)


@pytest.fixture
def start_directory(request: pytest.FixtureRequest, app_id: str) -> Iterator[StartDirectory]:
    """Directories on the shared Kafka unless another address is given."""
    started: list[EgressDirectory] = []

    def start(
        address: str | None = None,
        *,
        topics_max: int = 100,
        replication_factor: int = -1,
        message_bytes_min: int = 0,
        on_change: Callable[[], None] | None = None,
    ) -> EgressDirectory:
        settings = client_settings(
            address or request.getfixturevalue("kafka"),
            app_id=app_id,
            egress_topics_max=topics_max,
            replication_factor=replication_factor,
        )
        directory = EgressDirectory(
            settings, on_change=on_change, message_bytes_min=message_bytes_min
        )
        directory.start()
        started.append(directory)
        return directory

    yield start
    for directory in started:
        directory.stop()


@pytest.fixture
def facts_asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Topics whose facts were read, which happens for reasons only, never for their age."""
    asked: list[str] = []
    real = Connection.facts

    def facts(
        self: Connection, topics: Sequence[str], seconds: float
    ) -> dict[str, TopicFacts | TopicRefusal]:
        found = real(self, topics, seconds)
        asked.extend(found)
        return found

    monkeypatch.setattr(Connection, "facts", facts)
    monkeypatch.setattr(egress_survey, "FACTS_SECONDS", 3600.0)
    return asked


def await_problem(
    directory: EgressDirectory, topic: str, problem: Problem | None, partitions: int | None = None
) -> Destination:
    """Wait until `topic` stands as told."""

    def reached() -> bool:
        found = directory.lookup(topic)
        return (
            found is not None
            and found.problem is problem
            and (partitions is None or found.partitions == partitions)
        )

    await_condition(f"{topic} is {problem}: {directory.lookup(topic)}", reached)
    found = directory.lookup(topic)
    assert found is not None
    return found


def set_config(admin: AdminClient, topic: str, name: str, value: str) -> None:
    """Change one setting of a topic."""
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin.incremental_alter_configs([resource])[resource].result(10)


def test_wanted_topic_is_created_and_found_good(
    kafka: str, start_directory: StartDirectory, admin: AdminClient, names: TopicNames
) -> None:
    """A missing topic is made with the wanted partitions; until then it is unknown."""
    directory = start_directory(kafka)
    topic = names.egress("acme")
    assert directory.lookup(topic) is None
    before = directory.version
    directory.want(topic, 3)
    assert directory.version > before
    found = await_problem(directory, topic, None)
    assert found == Destination(topic, 3, MESSAGE_BYTES_MAX)
    assert partition_count(admin, topic) == 3


def test_existing_topic_keeps_its_own_figures(
    kafka: str, start_directory: StartDirectory, admin: AdminClient, names: TopicNames
) -> None:
    """The real partition count and size limit hold, not those that were wanted."""
    topic = f"{names.app_id}_shared"
    create_topic(admin, topic, 2, {"max.message.bytes": "5000"})
    directory = start_directory(kafka)
    directory.want(topic, 9)
    assert await_problem(directory, topic, None) == Destination(topic, 2, 5000)
    assert partition_count(admin, topic) == 2


def test_many_topics_are_served_at_once(
    kafka: str, start_directory: StartDirectory, names: TopicNames
) -> None:
    """Two hundred tenants that appear together all get their topics, across batches."""
    directory = start_directory(kafka, topics_max=200)
    wanted = [names.egress(f"t{i}") for i in range(200)]
    for topic in wanted:
        directory.want(topic, 1)
    for topic in wanted:
        await_problem(directory, topic, None)


def test_on_change_tells_of_every_version(
    kafka: str, start_directory: StartDirectory, names: TopicNames
) -> None:
    """Whoever waits for a change is called once the new state can be looked up."""
    good = threading.Event()
    topic = names.egress("acme")

    def look() -> None:
        found = directory.lookup(topic)
        if found is not None and found.problem is None:
            good.set()

    directory = start_directory(kafka, on_change=look)
    directory.want(topic, 1)
    assert good.wait(20)


@pytest.mark.usefixtures("facts_asked")
def test_deleted_topic_is_created_again(
    kafka: str, start_directory: StartDirectory, admin: AdminClient, names: TopicNames
) -> None:
    """A wanted topic that somebody deletes comes back as wanted, with nothing of the old one."""
    topic = names.egress("acme")
    create_topic(admin, topic, 1, {"max.message.bytes": "5000"})
    directory = start_directory(kafka)
    directory.want(topic, 2)
    assert await_problem(directory, topic, None) == Destination(topic, 1, 5000)
    admin.delete_topics([topic])[topic].result(10)
    found = await_problem(directory, topic, None, partitions=2)
    assert found == Destination(topic, 2, MESSAGE_BYTES_MAX)
    assert partition_count(admin, topic) == 2


@pytest.mark.usefixtures("facts_asked")
def test_deleted_topic_that_nobody_uses_stays_deleted(
    kafka: str,
    start_directory: StartDirectory,
    names: TopicNames,
    admin: AdminClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was deleted on purpose; who wants it again has it created."""
    directory = start_directory(kafka)
    topic = names.egress("acme")
    directory.want(topic, 1)
    await_problem(directory, topic, None)
    monkeypatch.setattr("streamsched.kafka.directory.IDLE_SECONDS", 0.0)
    admin.delete_topics([topic])[topic].result(10)
    # Looking it up would count as use.
    await_condition("the topic is forgotten", lambda: topic not in directory._entries)
    assert topic not in admin.list_topics(timeout=10).topics
    monkeypatch.undo()
    directory.want(topic, 1)
    await_problem(directory, topic, None)


@pytest.mark.usefixtures("facts_asked")
def test_growth_of_a_topic_is_noticed(
    kafka: str, start_directory: StartDirectory, admin: AdminClient, names: TopicNames
) -> None:
    """Partitions added later are used without a restart, and the version tells of it."""
    directory = start_directory(kafka)
    topic = names.egress("acme")
    directory.want(topic, 1)
    await_problem(directory, topic, None)
    before = directory.version
    admin.create_partitions([NewPartitions(topic, 4)])[topic].result(10)
    await_problem(directory, topic, None, partitions=4)
    assert directory.version > before


@pytest.mark.usefixtures("facts_asked")
def test_suspect_is_out_of_use_until_checked(
    kafka: str, start_directory: StartDirectory, admin: AdminClient, names: TopicNames
) -> None:
    """A suspect is not usable at once, is checked without delay, and shows what has changed."""
    directory = start_directory(kafka)
    topic = names.egress("acme")
    directory.want(topic, 1)
    await_problem(directory, topic, None)
    set_config(admin, topic, "max.message.bytes", "777")
    before = directory.version
    directory.suspect([topic, "never-heard-of"])
    assert directory.version > before
    assert directory.lookup("never-heard-of") is None
    await_condition(
        "the new limit is seen",
        lambda: directory.lookup(topic) == Destination(topic, 1, 777),
    )


def test_failed_check_leaves_a_suspect_out_of_use(
    own_kafka: EmbeddedKafka,
    start_directory: StartDirectory,
    names: TopicNames,
    facts_asked: list[str],
) -> None:
    """While no broker answers a suspect stays one; others keep their state; all recover."""
    directory = start_directory(own_kafka.bootstrap_servers)
    topics = [names.egress("one"), names.egress("two")]
    for topic in topics:
        directory.want(topic, 1)
    for topic in topics:
        await_problem(directory, topic, None)
    own_kafka.stop()
    directory.suspect([topics[0]])
    directory.want(names.egress("three"), 1)
    thread = directory._thread
    assert thread is not None
    await_condition("the outage is noticed", lambda: directory._away)
    assert thread.is_alive()
    states = [directory.lookup(t) for t in (*topics, names.egress("three"))]
    assert [d and d.problem for d in states] == [Problem.SUSPECT, None, Problem.UNKNOWN]
    facts_asked.clear()
    own_kafka.start()
    for topic in (*topics, names.egress("three")):
        await_problem(directory, topic, None)
    assert set(facts_asked) == {topics[0], names.egress("three")}


def test_unforeseen_failure_does_not_end_the_thread(
    kafka: str,
    start_directory: StartDirectory,
    names: TopicNames,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fault in one look is logged, and the next look serves as if nothing had been."""
    failures: list[int] = []
    real = egress_survey.EgressSurvey.run_once

    def fail_twice(self: object, *arguments: object) -> object:
        if len(failures) < 2:
            failures.append(1)
            raise RuntimeError("broken on purpose")
        return real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(egress_survey.EgressSurvey, "run_once", fail_twice)
    directory = start_directory(kafka)
    directory.want(names.egress("acme"), 1)
    await_problem(directory, names.egress("acme"), None)
    assert len(failures) == 2


def test_compacted_topic_is_refused_until_mended(
    kafka: str, start_directory: StartDirectory, admin: AdminClient, names: TopicNames
) -> None:
    """A compacted topic is not written to, and is good again once its policy is."""
    topic = f"{names.app_id}_shared"
    create_topic(admin, topic, 1, {"cleanup.policy": "compact"})
    directory = start_directory(kafka)
    directory.want(topic, 1)
    assert "cleanup.policy=delete" in await_problem(directory, topic, Problem.COMPACTED).detail
    set_config(admin, topic, "cleanup.policy", "delete")
    await_problem(directory, topic, None)


def test_topic_that_refuses_our_batches_is_too_small(
    kafka: str, start_directory: StartDirectory, admin: AdminClient, names: TopicNames
) -> None:
    """A topic that takes less than one of our batches would abort the transaction of others."""
    topic = f"{names.app_id}_small"
    create_topic(admin, topic, 1, {"max.message.bytes": "9999"})
    directory = start_directory(kafka, message_bytes_min=10_000)
    directory.want(topic, 1)
    assert "9999" in await_problem(directory, topic, Problem.TOO_SMALL).detail


def test_limit_counts_the_topics_of_before(
    kafka: str, start_directory: StartDirectory, admin: AdminClient, names: TopicNames
) -> None:
    """No topic is created beyond the limit; existing ones are used, and count, wanted or not."""
    create_topic(admin, names.egress("old"))
    create_topic(admin, names.egress("used"))
    directory = start_directory(kafka, topics_max=3)
    for tenant in ("used", "new", "typo"):
        directory.want(names.egress(tenant), 1)
    await_problem(directory, names.egress("used"), None)
    await_problem(directory, names.egress("new"), None)
    assert (
        "egress_topics_max" in await_problem(directory, names.egress("typo"), Problem.LIMIT).detail
    )
    assert partition_count(admin, names.egress("typo")) == 0
    delete_topic(admin, names.egress("old"))
    await_problem(directory, names.egress("typo"), None)


@pytest.mark.parametrize(
    "topic", ["__consumer_offsets", "{app_id}.jobs", "{app_id}-jobs-changelog"]
)
def test_reserved_topics_are_never_touched(
    kafka: str, start_directory: StartDirectory, admin: AdminClient, names: TopicNames, topic: str
) -> None:
    """A tenant that names one of our own topics or Kafka's is refused, and nothing is created."""
    reserved = topic.format(app_id=names.app_id)
    directory = start_directory(kafka)
    directory.want(reserved, 1)
    directory.want(names.egress("acme"), 1)
    await_problem(directory, names.egress("acme"), None)
    await_problem(directory, reserved, Problem.FORBIDDEN)
    assert topic.startswith("__") or partition_count(admin, reserved) == 0


@pytest.mark.parametrize(
    ("topic", "replication_factor", "reason"),
    [("no good name", -1, "invalid"), ("{app_id}_x", 3, "replication factor")],
)
def test_topic_that_cannot_be_created_is_missing(
    kafka: str,
    start_directory: StartDirectory,
    names: TopicNames,
    topic: str,
    replication_factor: int,
    reason: str,
) -> None:
    """What the broker refuses to create is missing, with the broker's reason."""
    directory = start_directory(kafka, replication_factor=replication_factor)
    wanted = topic.format(app_id=names.app_id)
    directory.want(wanted, 1)
    assert reason in await_problem(directory, wanted, Problem.MISSING).detail


def test_forbidden_topics_are_told_and_come_back(
    tmp_path: Path, start_directory: StartDirectory, names: TopicNames
) -> None:
    """Without the right to write, or even to look, a topic is forbidden until it is given."""
    authorizer = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
    }
    unwritable, invisible = names.egress("unwritable"), names.egress("invisible")
    with EmbeddedKafka(tmp_path / "kafka", properties=authorizer) as kafka:
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
        denied = [
            *(_acl(unwritable, AclOperation.WRITE, AclPermissionType.DENY),),
            *(_acl(unwritable, AclOperation.DESCRIBE, AclPermissionType.ALLOW),),
            *(_acl(unwritable, AclOperation.DESCRIBE_CONFIGS, AclPermissionType.ALLOW),),
            *(_acl(invisible, AclOperation.ALL, AclPermissionType.DENY),),
        ]
        for topic in (unwritable, invisible):
            create_topic(admin, topic)
        for done in admin.create_acls(denied).values():
            done.result(10)
        await_condition(
            "the rights are gone", lambda: invisible not in admin.list_topics(timeout=10).topics
        )
        directory = start_directory(kafka.bootstrap_servers)
        for topic in (unwritable, invisible, names.egress("open")):
            directory.want(topic, 1)
        await_problem(directory, unwritable, Problem.FORBIDDEN)
        assert "Describe" in await_problem(directory, invisible, Problem.FORBIDDEN).detail
        await_problem(directory, names.egress("open"), None)
        deleted = admin.delete_acls([_filter(unwritable), _filter(invisible)])
        for done in deleted.values():
            done.result(10)
        await_problem(directory, unwritable, None)
        await_problem(directory, invisible, None)


def _acl(topic: str, operation: AclOperation, permission: AclPermissionType) -> AclBinding:
    return AclBinding(
        ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, "User:*", "*", operation, permission
    )


def _filter(topic: str) -> AclBindingFilter:
    return AclBindingFilter(
        ResourceType.TOPIC,
        topic,
        ResourcePatternType.LITERAL,
        "User:*",
        "*",
        AclOperation.ANY,
        AclPermissionType.ANY,
    )


def test_wrong_client_option_is_told_at_the_start(kafka: str, app_id: str) -> None:
    """A client option that librdkafka does not know ends the start with a sentence."""
    settings = Settings(bootstrap_servers=kafka, app_id=app_id, kafka={"no.such.option": "1"})
    with pytest.raises(KafkaProblem, match=r"no\.such\.option"):
        EgressDirectory(settings).start()
