"""One tenant's egress topic is broken while jobs flow: nobody else is stopped, and it goes on."""

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka.admin import (
    AdminClient,
)

from streamsched.core.destinations import Problem
from streamsched.engine.producer import BATCH_BYTES_MAX
from tests.broker.cluster import (
    await_condition,
    create_topic,
    delete_topic,
    partition_count,
    set_config,
)
from tests.broker.flowing import (
    PARTITIONS,
    await_dispatched_once,
    await_progress,
    dispatches,
    flowing,
    unconfigured,
)
from tests.broker.installation import Installation, installed
from tests.broker.reading import job_id, read_topics

TOPICS_MAX = 16


@pytest.fixture(scope="module")
def it(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A scheduler that may have few egress topics."""
    folder = tmp_path_factory.mktemp("egress")
    with installed(
        kafka, folder, partitions=PARTITIONS, egress_topics_max=str(TOPICS_MAX)
    ) as running:
        yield running


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
def test_job_larger_than_its_topic_takes(it: Installation, admin: AdminClient, seed: int) -> None:
    """A topic that takes batches but not this job: the tenant waits until it does."""
    topic = it.names.egress("huge")
    create_topic(admin, topic, 1, {"max.message.bytes": f"{BATCH_BYTES_MAX + 100_000}"})
    with flowing(it, "huge") as traffic:
        await_progress(it, traffic)
        it.process.await_tenant("huge", status="ok")
        # A broker compares what is left after compression, so the job is one that stays as it is.
        it.sender.job("huge", "huge-job", value=random.Random(seed).randbytes(700_000))
        it.sender.flush()
        row: dict[str, Any] = {}

        def is_named() -> bool:
            row.update(it.process.tenant("huge"))
            return row["status"] == "unconfigured" and "job 'huge-job' needs" in row["reason"]

        await_condition("the job is named", is_named, 60, lambda: f"{row}")
        assert f"egress topic {topic}: " in row["reason"]
        await_progress(it, traffic)
        assert "huge-job" not in dispatches(it, "huge")
        set_config(admin, topic, "max.message.bytes", "1048588")
        await_dispatched_once(it, "huge", ["huge-job"])
        it.process.await_tenant("huge", status="ok")
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
