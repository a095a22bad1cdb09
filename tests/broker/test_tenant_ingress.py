"""Ingress topics of single tenants on a real broker, exactly once through kills."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from streamsched.client import Client
from streamsched.core import headers as h
from streamsched.core.names import TopicNames
from streamsched.kafka import admin as topics
from tests.broker.cluster import await_condition, create_topic
from tests.broker.installation import Installation, installed
from tests.broker.reading import job_id, read_events, read_topics
from tests.broker.scheduler_process import SchedulerProcess
from tests.connecting import client_options

JOBS = 4_000
TENANTS = ("acme", "bobs")


@pytest.fixture
def it(kafka: str, tmp_path: Path) -> Iterator[Installation]:
    """A scheduler that looks after tenants' own topics."""
    with installed(kafka, tmp_path, tenant_ingress="true") as running:
        yield running


def own_topic(it: Installation, tenant: str) -> str:
    """The tenant's ingress topic."""
    return TopicNames(it.names.app_id, tenant_ingress=True).ingress(tenant)


def test_the_topic_says_who_the_tenant_is(it: Installation, admin: AdminClient) -> None:
    """A topic that is made while the scheduler runs is found; a claim of another is rejected."""
    topic = own_topic(it, "acme")
    create_topic(admin, topic, 2)
    marks = [(h.ID, b"in-header-mode"), (h.DELAY_MS, b"0")]
    it.sender.record(b"other", b"opaque", [*marks, ("own", b"1")], topic=topic)
    it.sender.record(None, b'{"id":"envelope","delay_ms":0,"payload":1.10}', topic=topic)
    it.sender.record(None, b'{"id":"x","delay_ms":0,"payload":1,"tenant":"other"}', topic=topic)
    it.sender.record(b"acme", b"no json", topic=topic)
    it.sender.flush()
    found = {record.key(): record for record in it.dispatched("acme", 2)}
    assert found[b"in-header-mode"].value() == b"opaque"
    assert ("own", b"1") in (found[b"in-header-mode"].headers() or [])
    assert found[b"envelope"].value() == b"1.10"
    rejected = it.committed(it.names.rejected, 2)
    told = [dict(record.headers() or ()) for record in rejected]
    assert {of[h.ERROR_CODE] for of in told} == {b"foreign_tenant", b"not_json"}
    assert {of[h.ERROR_TOPIC] for of in told} == {topic.encode()}
    await_condition(
        "both are told as events",
        lambda: sum(e["event"] == "rejected" for e in read_events(it.kafka, it.names.events)) == 2,
    )


def test_the_topic_is_made_by_command(kafka: str, app_id: str) -> None:
    """With what the ingress topic has; without the setting nobody would read it."""
    names = TopicNames(app_id, tenant_ingress=True)
    options = client_options(kafka)
    done = topics.apply(options, names, tenants=["acme"])
    assert names.ingress("acme") in done.created
    assert topics.plan(options, names, tenants=["acme"]).complete


def test_the_client_submits_and_cancels_there(it: Installation, admin: AdminClient) -> None:
    """What it writes lies on the tenant's topic alone until the scheduler hands it on."""
    create_topic(admin, own_topic(it, "acme"))
    options = client_options(it.kafka)
    with Client(it.kafka, it.names.app_id, options, tenant_ingress=True) as client:
        client.submit("acme", "stays", b"", delay=timedelta(hours=1))
        client.submit("acme", "leaves", b"", delay=timedelta())
        client.cancel("acme", "stays")
    assert [record.key() for record in it.dispatched("acme", 1)] == [b"leaves"]
    await_condition(
        "the cancel met its job",
        lambda: [e["event"] for e in it.events("acme")] == ["cancelled"],
        tell=it.process.log,
    )


def _copies(it: Installation, ids: Sequence[str]) -> str:
    """Where copies of jobs lie, to tell who made them."""
    came = read_topics(it.kafka, [own_topic(it, tenant) for tenant in TENANTS])
    found = [*came, *read_topics(it.kafka, [it.names.jobs])]
    places = [(r.topic(), r.partition(), r.offset(), job_id(r)) for r in found if job_id(r) in ids]
    return f"{len(ids)} jobs left more than once: {places[:40]}"


def test_each_job_is_handed_on_once_through_kills(
    it: Installation, admin: AdminClient, kafka: str, tmp_path: Path
) -> None:
    """Two schedulers share the topics; the first is killed while they work, and comes back."""
    for tenant in TENANTS:
        create_topic(admin, own_topic(it, tenant), 2)
    second = SchedulerProcess(kafka, it.names.app_id, tmp_path / "second", tenant_ingress="true")
    second.start()
    try:
        second.wait_ready()
        for number in range(JOBS):
            tenant = TENANTS[number % 2]
            marks = [(h.ID, b"%d" % number), (h.DELAY_MS, b"0")]
            it.sender.record(b"%d" % number, b"", marks, topic=own_topic(it, tenant))
            if number == JOBS // 2:
                it.process.kill()
        it.sender.flush()
        it.process.start()
        left = [record for tenant in TENANTS for record in it.dispatched(tenant, JOBS // 2)]
        ids = Counter(map(job_id, left))
        twice = [one for one, count in ids.items() if count > 1]
        assert len(left) == len(ids) == JOBS, _copies(it, twice)
        assert [e for e in read_events(kafka, it.names.events) if e["event"] != "cancelled"] == []
    finally:
        second.kill()
