"""Rights that are taken away while a scheduler runs, and given back: it goes on by itself."""

import time
from collections import Counter
from pathlib import Path

import pytest

from streamsched.core import headers as h
from streamsched.core.destinations import Problem
from streamsched.kafka.embedded import EmbeddedKafka
from streamsched.kafka.rights import Kind, Operation, Resource, Right, lacks
from tests.broker.cluster import await_condition, create_topic
from tests.broker.flowing import BYSTANDERS, PARTITIONS, await_progress, flowing, unconfigured
from tests.broker.installation import Installation
from tests.broker.reading import job_id, read_topics
from tests.broker.rightful import Rightful, prepared_with_rights

pytestmark = pytest.mark.timeout(300)


def right(operation: Operation, topic: str) -> Right:
    """A right on one topic."""
    return Right(Resource(Kind.TOPIC, topic), operation, "")


def test_egress_rights_come_and_go(secured: EmbeddedKafka, tmp_path: Path) -> None:
    """A topic denied by its name and one that is not even to be seen: only their tenants wait."""
    rightful = Rightful(secured)
    shared = f"shared-{time.time_ns()}"
    on_shared = [
        right(operation, shared)
        for operation in (Operation.WRITE, Operation.DESCRIBE_CONFIGS, Operation.CREATE)
    ]
    with prepared_with_rights(
        rightful, tmp_path, partitions=PARTITIONS, egress_topics=[shared]
    ) as (it, user):
        it.process.start()
        it.process.wait_ready()
        denied = it.names.egress("denied")
        sharers = ("sharer-a", "sharer-b")
        with flowing(it, "denied", *sharers) as traffic:
            for tenant in sharers:
                it.sender.settings(tenant, events="all", egress_topic=shared)
            it.sender.flush()
            for tenant in sharers:
                it.process.await_tenant(tenant, egress_topic=shared, status="ok")
            await_progress(it, traffic)

            rightful.deny(user, [right(Operation.WRITE, denied)])
            rightful.take(user, on_shared)
            of_denied = lacks([Operation.WRITE], Resource(Kind.TOPIC, denied))
            of_shared = lacks(
                [Operation.WRITE, Operation.DESCRIBE_CONFIGS], Resource(Kind.TOPIC, shared)
            )
            unconfigured(it, "denied", Problem.FORBIDDEN, of_denied)
            for tenant in sharers:
                unconfigured(it, tenant, Problem.FORBIDDEN, of_shared)
            await_progress(it, traffic)
            await_condition("it is ready", it.process.is_ready, 60, it.process.log)

            rightful.forgive(user, [right(Operation.WRITE, denied)])
            rightful.grant(user, on_shared)
            for tenant in ("denied", *sharers):
                it.process.await_tenant(tenant, status="ok")
            await_progress(it, traffic)
        assert [job_id(m) for m in read_topics(it.kafka, [denied])] == traffic.sent["denied"]
        everywhere = [shared, *map(it.names.egress, sharers)]
        found = Counter(job_id(message) for message in read_topics(it.kafka, everywhere))
        # Each id is that of one job of each sharer.
        assert found == Counter([*traffic.sent["sharer-a"], *traffic.sent["sharer-b"]])
        assert "Traceback" not in it.process.whole_log()


def test_scheduler_without_create_waits_for_topics_or_the_right(
    secured: EmbeddedKafka, tmp_path: Path
) -> None:
    """Only a tenant without a topic waits, for Create by name; either of the two lets it go on."""
    rightful = Rightful(secured)
    with prepared_with_rights(rightful, tmp_path, partitions=PARTITIONS) as (it, user):
        all_egress = Resource(Kind.TOPIC, it.names.egress_prefix, prefixed=True)
        create = Right(all_egress, Operation.CREATE, "")
        rightful.take(user, [create])
        for tenant in BYSTANDERS:
            create_topic(rightful.admin, it.names.egress(tenant))
        it.process.start()
        it.process.wait_ready()
        with flowing(it, "made", "granted") as traffic:
            for tenant in ("made", "granted"):
                of_tenant = Resource(Kind.TOPIC, it.names.egress(tenant))
                detail = (
                    f"does not exist and cannot be created: {lacks([Operation.CREATE], of_tenant)}"
                )
                unconfigured(it, tenant, Problem.FORBIDDEN, detail)
            await_progress(it, traffic)
            assert it.process.is_ready(), it.process.text("/readyz")

            create_topic(rightful.admin, it.names.egress("made"))
            it.process.await_tenant("made", status="ok")
            assert it.process.tenant("granted")["status"] == "unconfigured"
            rightful.grant(user, [create])
            it.process.await_tenant("granted", status="ok")
            await_progress(it, traffic)
        assert "Traceback" not in it.process.whole_log()


def test_rights_on_our_own_topics_come_and_go(secured: EmbeddedKafka, tmp_path: Path) -> None:
    """All wait, `/readyz` and the log say for which right, and nothing is lost or sent twice."""
    rightful = Rightful(secured)
    with prepared_with_rights(rightful, tmp_path, partitions=PARTITIONS) as (it, user):
        names = it.names
        it.process.start()
        it.process.wait_ready()
        # Nobody is a bystander here: what everybody needs is taken, each time for a while.
        with flowing(it, "another", lateness_ms_max=120_000) as traffic:
            await_progress(it, traffic)
            for operation, topic in (
                (Operation.WRITE, names.events),
                (Operation.WRITE, names.rejected),
                (Operation.WRITE, names.dead_letters),
                (Operation.WRITE, names.changelog),
                (Operation.READ, names.jobs),
            ):
                rightful.take(user, [right(operation, topic)])
                # So that each of the topics is needed.
                it.sender.record(b"another", b"x", [(h.ID, b"")])
                it.sender.job("another", f"late for {topic}", (h.EXPIRES_AT, b"1000000000000"))
                it.sender.flush()
                await_said(it, lacks([operation], Resource(Kind.TOPIC, topic)))
                rightful.grant(user, [right(operation, topic)])
                await_condition("it is ready again", it.process.is_ready, 60, it.process.log)
                await_progress(it, traffic)
        assert "Traceback" not in it.process.whole_log()


def await_said(it: Installation, sentence: str) -> None:
    """Wait until `/readyz` and the log say it."""
    await_condition(
        f"/readyz says {sentence!r}",
        lambda: sentence in it.process.text("/readyz"),
        60,
        it.process.log,
    )
    assert sentence in it.process.whole_log()
