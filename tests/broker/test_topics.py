"""The scheduler's own topics on a real Kafka: planned, created, corrected, checked."""

from collections.abc import Callable

import pytest
from confluent_kafka.admin import (
    AdminClient,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from streamsched.core.limits import MESSAGE_BYTES_MAX
from streamsched.core.names import TopicNames
from streamsched.kafka import admin as topics
from streamsched.kafka.admin import Difference, State
from streamsched.kafka.connection import Connection, KafkaAway, KafkaProblem, TopicFacts
from streamsched.settings import Settings
from tests.broker.cluster import await_partitions, create_topic, delete_topic
from tests.connecting import client_options, client_settings


@pytest.fixture
def names(app_id: str) -> TopicNames:
    """Topic names of this test alone."""
    return TopicNames(app_id)


@pytest.fixture
def where(kafka: str) -> Settings:
    """Settings that point to the shared Kafka."""
    return client_settings(kafka)


def _configs(admin: AdminClient, topic: str) -> dict[str, str | None]:
    described = admin.describe_configs([ConfigResource(ResourceType.TOPIC, topic)])
    return {name: e.value for name, e in next(iter(described.values())).result(10).items()}


def test_plan_of_an_empty_cluster_lists_every_topic_and_makes_none(
    where: Settings, names: TopicNames, admin: AdminClient
) -> None:
    """Planning names all six topics as missing, four partitions each but settings, and waits."""
    found = topics.plan(where, names)
    assert not found.complete
    assert [
        (t.topic, t.partitions, t.configs["cleanup.policy"], t.state) for t in found.topics
    ] == [
        (names.jobs, 4, "delete", State.MISSING),
        (names.tenant_settings, 1, "compact", State.MISSING),
        (names.rejected, 4, "delete", State.MISSING),
        (names.dead_letters, 4, "delete", State.MISSING),
        (names.events, 4, "delete", State.MISSING),
        (names.changelog, 4, "compact", State.MISSING),
    ]
    assert not [t for t in admin.list_topics(timeout=10).topics if t.startswith(names.app_id)]


def test_apply_creates_what_plan_said(
    where: Settings, names: TopicNames, admin: AdminClient
) -> None:
    """Applying creates all topics as planned; a second time there is nothing to do."""
    where = where.model_copy(update={"replication_factor": 1, "min_insync_replicas": 1})
    done = topics.apply(where, names, partitions=3)
    assert len(done.created) == 6
    assert done.changed == ()
    assert done.after.complete
    again = topics.apply(where, names)
    assert (again.created, again.changed, again.after.complete) == ((), (), True)
    existing = admin.list_topics(timeout=10).topics
    for topic in done.after.topics:
        wanted = 1 if topic.topic == names.tenant_settings else 3
        assert len(existing[topic.topic].partitions) == wanted
        configs = _configs(admin, topic.topic)
        assert configs["max.message.bytes"] == str(MESSAGE_BYTES_MAX)
        assert {name: configs[name] for name in topic.configs} == dict(topic.configs)
    assert topics.check(where, names) == ()


def test_changelog_takes_the_partition_count_of_existing_jobs(
    where: Settings, names: TopicNames, admin: AdminClient
) -> None:
    """Where the ingress topic exists, its count wins over the default."""
    create_topic(admin, names.jobs, 7)
    done = topics.apply(where, names)
    assert done.after.complete
    assert len(admin.list_topics(timeout=10).topics[names.changelog].partitions) == 7


def test_asking_for_another_partition_count_is_a_difference(
    where: Settings, names: TopicNames, admin: AdminClient
) -> None:
    """A count that is given and not that of the existing topic is shown, and never applied."""
    create_topic(admin, names.jobs, 2, {"max.message.bytes": str(MESSAGE_BYTES_MAX)})
    done = topics.apply(where, names, partitions=6)
    jobs = done.after.topics[0]
    assert jobs.differences == (Difference("partitions", "6", "2", fixable=False),)
    assert len(admin.list_topics(timeout=10).topics[names.jobs].partitions) == 2


def test_apply_corrects_configs_and_keeps_the_others(
    where: Settings, names: TopicNames, admin: AdminClient
) -> None:
    """A wrong cleanup policy and a size limit that is too small are mended; the rest stays."""
    create_topic(
        admin,
        names.tenant_settings,
        1,
        {"cleanup.policy": "delete", "max.message.bytes": "1000", "retention.ms": "777000"},
    )
    (sentence,) = [s for s in topics.check(where, names) if "cleanup.policy" in s]
    assert sentence == (
        f"topic {names.tenant_settings} has cleanup.policy delete where compact is needed: "
        "run `streamsched topics apply`"
    )
    done = topics.apply(where, names)
    assert done.changed == (names.tenant_settings,)
    assert done.after.complete
    configs = _configs(admin, names.tenant_settings)
    assert configs["cleanup.policy"] == "compact"
    assert configs["max.message.bytes"] == str(MESSAGE_BYTES_MAX)
    assert configs["retention.ms"] == "777000"


def test_larger_size_limit_is_no_difference(
    where: Settings, names: TopicNames, admin: AdminClient
) -> None:
    """A topic that takes larger records than we need is left alone."""
    create_topic(admin, names.jobs, 1, {"max.message.bytes": "5000000"})
    topics.apply(where, names)
    assert _configs(admin, names.jobs)["max.message.bytes"] == "5000000"
    assert topics.check(where, names) == ()


def test_check_names_each_missing_topic(where: Settings, names: TopicNames) -> None:
    """Each missing topic has one sentence with the remedy."""
    sentences = topics.check(where, names)
    assert len(sentences) == 6
    assert sentences[0] == f"topic {names.jobs} is missing: run `streamsched topics apply`"


def test_check_refuses_unequal_partition_counts(
    where: Settings, names: TopicNames, admin: AdminClient
) -> None:
    """Ingress grown past its changelog is refused: their partitions belong together."""
    topics.apply(where, names, partitions=2)
    admin.create_partitions([NewPartitions(names.jobs, 3)])[names.jobs].result(10)
    await_partitions(admin, names.jobs, 3)
    (sentence,) = topics.check(where, names)
    assert sentence == (
        f"topic {names.changelog} has partitions 2 where 3 is needed: "
        "create it anew with that, or use another app_id"
    )


@pytest.mark.parametrize("look", [topics.plan, topics.apply])
def test_more_copies_than_brokers_are_a_sentence(
    where: Settings, names: TopicNames, look: Callable[..., object]
) -> None:
    """Three copies on one broker are refused before anything is made, with what to do."""
    with pytest.raises(KafkaProblem) as caught:
        look(where.model_copy(update={"replication_factor": 3}), names)
    assert str(caught.value) == (
        f"topic {names.jobs} cannot be created: replication factor 3 needs as many brokers, and "
        "1 is there: start the others, or lower STREAMSCHED_REPLICATION_FACTOR"
    )


def test_limits_are_raised_and_never_lowered(
    where: Settings, names: TopicNames, admin: AdminClient
) -> None:
    """What would lose jobs or stop transactions is raised; what is larger stays."""
    small = {
        "retention.ms": "60000",
        "retention.bytes": "1000000",
        "message.timestamp.before.max.ms": "5000",
        "message.timestamp.after.max.ms": "5000",
        "compression.type": "gzip",
    }
    create_topic(admin, names.jobs, 2, small)
    large = {"cleanup.policy": "compact", "delete.retention.ms": "86400000"}
    create_topic(admin, names.changelog, 2, large)
    jobs, changelog = (topics.plan(where, names).topics[i] for i in (0, 5))
    assert [(d.name, d.found, d.fixable, d.blocking) for d in jobs.differences] == [
        ("message.timestamp.before.max.ms", "5000", True, True),
        ("message.timestamp.after.max.ms", "5000", True, False),
        ("retention.ms", "60000", True, False),
        ("retention.bytes", "1000000", True, False),
    ]
    assert changelog.state is State.OK
    (sentence,) = [s for s in topics.check(where, names) if names.jobs in s]
    assert sentence == (
        f"topic {names.jobs} has message.timestamp.before.max.ms 5000 where 60000 is needed: "
        "run `streamsched topics apply`"
    )
    assert topics.apply(where, names).after.complete
    configs = _configs(admin, names.jobs)
    assert configs["retention.ms"] == "86400000"
    assert configs["retention.bytes"] == "-1"
    assert configs["compression.type"] == "gzip"
    assert _configs(admin, names.changelog)["delete.retention.ms"] == "86400000"


def test_more_in_sync_than_there_are_copies_is_refused(
    where: Settings, names: TopicNames, admin: AdminClient
) -> None:
    """A topic that can never be written to is named, and left as it is."""
    create_topic(admin, names.events, 4, {"min.insync.replicas": "2"})
    done = topics.apply(where, names)
    assert not done.after.complete
    (sentence,) = topics.check(where, names)
    assert sentence == (
        f"topic {names.events} has min.insync.replicas 2 where at most 1 is needed: give the "
        "topic more copies first, or lower min.insync.replicas with kafka-configs.sh"
    )
    assert _configs(admin, names.events)["min.insync.replicas"] == "2"


@pytest.mark.parametrize("address", ["127.0.0.1:1", "no-such-host.invalid:9092"])
def test_broker_away_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, names: TopicNames, address: str
) -> None:
    """Without a broker the answer is one sentence that names the address and the remedy."""
    monkeypatch.setattr(topics, "ANSWER_SECONDS_MAX", 1.0)
    with pytest.raises(KafkaAway) as caught:
        topics.check({"bootstrap.servers": address}, names)
    text = str(caught.value)
    assert text.startswith(f"Kafka at {address} did not answer within 1 s (")
    assert "STREAMSCHED_BOOTSTRAP_SERVERS" in text
    assert "refused" in text or "resolve" in text


def test_wrong_client_option_is_one_sentence(kafka: str) -> None:
    """A misspelt option of the client is named with where to correct it."""
    with pytest.raises(KafkaProblem, match=r'"security\.protocl".*STREAMSCHED_KAFKA__'):
        Connection({**client_options(kafka), "security.protocl": "SSL"})


def test_topic_ids_tell_a_recreated_topic(admin: AdminClient, app_id: str) -> None:
    """Ids are stable while a topic lives, absent for none, and new after it was made again."""
    topic = f"{app_id}.x"
    create_topic(admin, topic, 1)
    first = topics.topic_ids(admin, [topic, f"{app_id}.none"])
    assert list(first) == [topic]
    assert topics.topic_ids(admin, [topic]) == first
    delete_topic(admin, topic)
    create_topic(admin, topic, 1)
    assert topics.topic_ids(admin, [topic])[topic] != first[topic]
    assert topics.topic_ids(admin, []) == {}


def test_facts_of_more_topics_than_one_request_takes(
    admin: AdminClient, kafka: str, app_id: str
) -> None:
    """Facts come for every topic asked for, across requests, refusals included."""
    created = [NewTopic(f"{app_id}.{i}", 1) for i in range(60)]
    for future in admin.create_topics(created).values():
        future.result(10)
    await_partitions(admin, f"{app_id}.59", 1)
    asked = [*(new.topic for new in created), f"{app_id}.none"]
    found = Connection(client_options(kafka)).facts(asked, 10)
    assert list(found) == asked
    assert sum(isinstance(facts, TopicFacts) for facts in found.values()) == 60
