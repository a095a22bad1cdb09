"""The SDK against a real Kafka; no scheduler runs here, its records are written by hand."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import confluent_kafka
import orjson
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from streamsched import AsyncClient, Client
from streamsched.client import (
    DeliveryError,
    DeliveryErrors,
    Dispatched,
    Job,
    ReadError,
    Submitted,
    TenantSettings,
)
from streamsched.client.batch import CHUNK_JOBS_MAX
from streamsched.core import headers as h
from streamsched.core.limits import HEADER_BYTES, JOB_BYTES_MAX, MESSAGE_BYTES_MAX
from streamsched.core.names import TopicNames
from tests.connecting import client_options

PARTITIONS = 4
WAIT_SECONDS = 30
DUE = datetime(2030, 1, 31, 10, tzinfo=UTC)
DUE_MS = 1_896_084_000_000
UNREACHABLE = "127.0.0.1:1"


def _create(admin: AdminClient, *topics: NewTopic) -> None:
    for created in admin.create_topics(list(topics)).values():
        created.result(WAIT_SECONDS)


def _egress(topic: str, partitions: int = PARTITIONS) -> NewTopic:
    return NewTopic(topic, num_partitions=partitions, replication_factor=1)


@pytest.fixture
def names(admin: AdminClient, app_id: str, kafka: str) -> TopicNames:
    """The installation's topics, created."""
    names = TopicNames(app_id)
    size = {"max.message.bytes": str(MESSAGE_BYTES_MAX)}
    _create(
        admin,
        NewTopic(names.jobs, PARTITIONS, 1, config=size),
        NewTopic(names.tenant_settings, 1, 1, config={"cleanup.policy": "compact"}),
    )
    return names


@pytest.fixture
def client(kafka: str, names: TopicNames) -> Iterator[Client]:
    """A blocking client of the installation."""
    with Client(kafka, names.app_id, client_options(kafka)) as client:
        yield client


def _read_all(kafka: str, topic: str, partitions: int = PARTITIONS) -> list[Any]:
    """Everything that is in `topic` now, as messages."""
    consumer = Consumer({**client_options(kafka), "group.id": uuid.uuid4().hex})
    try:
        found = []
        for partition in range(partitions):
            place = TopicPartition(topic, partition, 0)
            _, end = consumer.get_watermark_offsets(place, WAIT_SECONDS)
            if end:
                consumer.assign([place])
                found += consumer.consume(end, WAIT_SECONDS)
        return found
    finally:
        consumer.close()


def _dispatch(
    kafka: str, topic: str, *ids: str, tenant: str = "acme", commit: bool = True
) -> Producer:
    """Write dispatched jobs as the scheduler does: in a transaction, with our headers last."""
    producer = Producer(
        {**client_options(kafka), "transactional.id": f"{topic}-{uuid.uuid4().hex}"}
    )
    producer.init_transactions(WAIT_SECONDS)
    producer.begin_transaction()
    for job_id in ids:
        producer.produce(
            topic,
            b"payload of " + job_id.encode(),
            job_id.encode(),
            headers=[
                ("own", b"1"),
                ("own", b"\xff"),
                (h.ID, job_id),
                (h.TENANT, tenant),
                (h.DUE_AT, str(DUE_MS)),
                (h.DISPATCHED_AT, str(DUE_MS + 7)),
                (h.OCCURRENCE, "0"),
                (h.SOURCE, "2-41"),
            ],
        )
    if commit:
        producer.commit_transaction(WAIT_SECONDS)
    else:
        producer.flush(WAIT_SECONDS)
    return producer


def _ids(records: Any) -> list[str]:
    return sorted(record.id for record in records)


# --- submitting ----------------------------------------------------------------------------


def test_a_submitted_job_lies_where_the_receipt_says(
    client: Client, kafka: str, names: TopicNames
) -> None:
    """The record is in header mode, payload untouched, keyed by its tenant."""
    own: list[tuple[str, str | bytes | None]] = [("a", b"\xff"), ("a", "ü"), ("b", None)]
    submitted = client.submit("acme", "sms-1", b"\x00\xff", due_at=DUE, headers=own)
    [message] = _read_all(kafka, names.jobs)
    assert submitted == Submitted("acme", "sms-1", message.partition(), message.offset())
    assert (message.key(), message.value()) == (b"acme", b"\x00\xff")
    assert message.headers() == [
        ("a", b"\xff"),
        ("a", "ü".encode()),
        ("b", None),
        (h.ID, b"sms-1"),
        (h.DUE_AT, str(DUE_MS).encode()),
    ]


def test_every_tenant_is_placed_by_murmur2(client: Client, names: TopicNames) -> None:
    """Jobs and cancels of a tenant go to the partition that Kafka's own partitioner names."""
    tenants = [f"tenant-{number}" for number in range(40)]
    expected = [confluent_kafka.murmur2(t.encode(), PARTITIONS) % PARTITIONS for t in tenants]
    assert set(expected) == set(range(PARTITIONS))
    assert [client.submit(t, payload=1, due_at=DUE).partition for t in tenants] == expected
    assert [client.cancel(t, "x").partition for t in tenants] == expected


def test_a_cancel_is_a_null_value_with_the_jobs_id(
    client: Client, kafka: str, names: TopicNames
) -> None:
    """What is written for a cancel."""
    client.cancel("acme", "sms-1")
    [message] = _read_all(kafka, names.jobs)
    assert message.value() is None
    assert message.headers() == [(h.ID, b"sms-1"), (h.OP, b"cancel")]


def test_the_largest_legal_job_is_delivered(client: Client) -> None:
    """The client's own limits leave room for a job of the greatest size."""
    room = JOB_BYTES_MAX - len("acme") - len(h.ID + "big") - len(h.DUE_AT + str(DUE_MS))
    room -= 2 * HEADER_BYTES
    assert client.submit("acme", "big", bytes(room), due_at=DUE).offset == 0
    with pytest.raises(ValueError, match="at most"):
        client.submit("acme", "big", bytes(room + 1), due_at=DUE)


def test_many_jobs_are_submitted_in_chunks(client: Client, kafka: str, names: TopicNames) -> None:
    """All jobs of an iterable longer than a chunk arrive, in each tenant's order."""
    count = 2 * CHUNK_JOBS_MAX + 10
    jobs = (Job(tenant=f"t{n % 5}", id=f"{n:06}", payload=n, due_at=DUE) for n in range(count))
    assert client.submit_many(jobs) == count
    messages = _read_all(kafka, names.jobs)
    assert sorted(dict(m.headers())[h.ID].decode() for m in messages) == [
        f"{n:06}" for n in range(count)
    ]
    for tenant in range(5):
        ids = [dict(m.headers())[h.ID] for m in messages if m.key() == f"t{tenant}".encode()]
        assert ids == sorted(ids)


def test_submit_many_names_the_jobs_that_failed_and_sends_the_rest(
    client: Client, kafka: str, names: TopicNames
) -> None:
    """One bad job does not take the others with it."""
    ids = ["a", "", "b"]
    with pytest.raises(DeliveryErrors) as caught:
        client.submit_many(Job(tenant="acme", id=i, payload=1, due_at=DUE) for i in ids)
    assert [failure.index for failure in caught.value.failures] == [1]
    assert (caught.value.taken, caught.value.submitted) == (3, 2)
    assert len(_read_all(kafka, names.jobs)) == 2


# --- failing -------------------------------------------------------------------------------


def test_a_broker_that_is_away_is_raised_with_the_jobs_name() -> None:
    """No acknowledgement, no silence: the error names tenant, id, topic and reason."""
    options = {"delivery.timeout.ms": "300"}
    with Client(UNREACHABLE, "away", options) as client:
        with pytest.raises(DeliveryError) as caught:
            client.submit("acme", "sms-1", b"x", due_at=DUE)
        error = caught.value
        assert (error.tenant, error.id, error.topic) == ("acme", "sms-1", "away.jobs")
        assert error.code == "_MSG_TIMED_OUT"
        assert str(error) == (
            "job 'sms-1' of tenant 'acme' was not delivered to away.jobs: Local: Message timed "
            "out; check the address and that the brokers are up"
        )
        with pytest.raises(DeliveryErrors, match="2 of 2 jobs") as many:
            client.submit_many(Job(tenant="acme", payload=n, due_at=DUE) for n in range(2))
        assert {type(failure.error) for failure in many.value.failures} == {DeliveryError}


def test_a_missing_topic_is_raised_and_not_created(
    kafka: str, app_id: str, admin: AdminClient
) -> None:
    """A job for an installation without topics fails; the topic is not made by accident."""
    options = {**client_options(kafka), "topic.metadata.propagation.max.ms": "200"}
    with (
        Client(kafka, app_id, options) as client,
        pytest.raises(DeliveryError, match="streamsched topics apply"),
    ):
        client.submit("acme", "sms-1", b"x", due_at=DUE)
    assert TopicNames(app_id).jobs not in admin.list_topics(timeout=WAIT_SECONDS).topics


def test_a_topic_that_takes_less_is_raised(kafka: str, app_id: str, admin: AdminClient) -> None:
    """A job that the broker refuses as too large raises what the broker said."""
    topic = NewTopic(TopicNames(app_id).jobs, 1, 1, config={"max.message.bytes": "1000"})
    _create(admin, topic)
    with (
        Client(kafka, app_id, client_options(kafka)) as client,
        pytest.raises(DeliveryError) as caught,
    ):
        client.submit("acme", "sms-1", bytes(2_000), due_at=DUE)
    assert caught.value.code == "MSG_SIZE_TOO_LARGE"


def test_a_closed_client_says_so(client: Client) -> None:
    """Nothing can be submitted after close, and closing twice is harmless."""
    client.submit("acme", "sms-1", b"x", due_at=DUE)
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.submit("acme", "sms-1", b"x", due_at=DUE)


# --- tenants -------------------------------------------------------------------------------


def test_settings_are_published_whole_and_read_back(
    client: Client, kafka: str, names: TopicNames
) -> None:
    """Each record replaces the previous one; a tombstone removes it."""
    assert client.tenants() == {}
    assert client.set_tenant("acme", rate="40/s", burst=10) == 0
    assert client.set_tenant("acme", rate="10/m") == 1
    client.set_tenant("*", paused=True)
    client.set_tenant("gone", events="all")
    client.unset_tenant("gone")
    assert client.tenants() == {
        "acme": TenantSettings(rate="10/m"),
        "*": TenantSettings(paused=True),
    }
    values = [message.value() for message in _read_all(kafka, names.tenant_settings, 1)]
    assert values[0] == b'{"rate":"40/s","burst":10}'
    assert values[-1] is None


def test_pause_and_resume_change_nothing_else(client: Client) -> None:
    """The newest record is read, changed and written back."""
    client.set_tenant("acme", rate="40/s", burst=10, egress_topic="shared")
    client.pause("acme")
    paused = TenantSettings(rate="40/s", burst=10, paused=True, egress_topic="shared")
    assert client.tenants()["acme"] == paused
    client.resume("acme")
    assert client.tenants()["acme"].paused is False
    client.pause("new")
    assert client.tenants()["new"] == TenantSettings(paused=True)


def test_an_open_transaction_on_settings_is_not_read(
    client: Client, kafka: str, names: TopicNames
) -> None:
    """Settings count once they are committed."""
    client.set_tenant("acme", rate="1/s")
    producer = Producer({**client_options(kafka), "transactional.id": names.app_id})
    producer.init_transactions(WAIT_SECONDS)
    producer.begin_transaction()
    producer.produce(names.tenant_settings, orjson.dumps({"rate": "2/s"}), b"acme")
    producer.flush(WAIT_SECONDS)
    assert client.tenants()["acme"].rate == "1/s"
    producer.commit_transaction(WAIT_SECONDS)
    assert client.tenants()["acme"].rate == "2/s"


def test_missing_settings_are_an_error_with_a_remedy(kafka: str, app_id: str) -> None:
    """Where there is no settings topic, reading says what to do."""
    with (
        Client(kafka, app_id, client_options(kafka)) as client,
        pytest.raises(ReadError, match="topics apply"),
    ):
        client.tenants()


# --- workers -------------------------------------------------------------------------------


def test_dispatched_jobs_are_read_with_all_they_carry(
    client: Client, kafka: str, names: TopicNames, admin: AdminClient
) -> None:
    """A worker gets the job with its producer's headers, and the iteration ends in time."""
    topic = names.egress("acme")
    _create(admin, _egress(topic, 1))
    _dispatch(kafka, topic, "one", "two")
    with client.dispatched("acme", from_beginning=True, timeout=2) as reader:
        first, second = reader
    assert second.id == "two"
    assert first == Dispatched(
        tenant="acme",
        id="one",
        due_at_ms=DUE_MS,
        dispatched_at_ms=DUE_MS + 7,
        occurrence=0,
        source="2-41",
        key=b"one",
        value=b"payload of one",
        headers=(("own", b"1"), ("own", b"\xff")),
        topic=topic,
        partition=0,
        offset=0,
    )


def test_a_reader_begins_where_the_topic_ended_when_it_was_made(
    client: Client, kafka: str, names: TopicNames, admin: AdminClient
) -> None:
    """Without a group only what comes afterwards is read, all partitions of it."""
    topic = names.egress("acme")
    _create(admin, _egress(topic))
    _dispatch(kafka, topic, "before")
    with client.dispatched("acme", timeout=5) as reader:
        after = [f"after-{number}" for number in range(10)]
        _dispatch(kafka, topic, *after)
        assert _ids(next(reader) for _ in after) == after


def test_aborted_and_open_transactions_are_not_read(
    client: Client, kafka: str, names: TopicNames, admin: AdminClient
) -> None:
    """Only what the scheduler committed is a dispatch."""
    topic = names.egress("acme")
    _create(admin, _egress(topic, 1))
    _dispatch(kafka, topic, "aborted", commit=False).abort_transaction(WAIT_SECONDS)
    _dispatch(kafka, topic, "committed")
    still_open = _dispatch(kafka, topic, "open", commit=False)
    with client.dispatched("acme", from_beginning=True, timeout=2) as reader:
        assert _ids(reader) == ["committed"]
    still_open.commit_transaction(WAIT_SECONDS)
    with client.dispatched("acme", from_beginning=True, timeout=2) as reader:
        assert _ids(reader) == ["committed", "open"]


def test_a_shared_topic_is_read_for_one_tenant(
    client: Client, kafka: str, names: TopicNames, admin: AdminClient
) -> None:
    """The reader follows the tenant's settings and passes other tenants and strangers over."""
    topic = f"shared-of-{names.app_id}"
    _create(admin, _egress(topic, 1))
    client.set_tenant("*", egress_topic=topic)
    _dispatch(kafka, topic, "theirs", tenant="other")
    stranger = Producer(client_options(kafka))
    stranger.produce(topic, b"x")
    assert stranger.flush(WAIT_SECONDS) == 0
    _dispatch(kafka, topic, "ours")
    try:
        with client.dispatched("acme", from_beginning=True, timeout=2) as reader:
            assert _ids(reader) == ["ours"]
    finally:
        admin.delete_topics([topic])[topic].result(WAIT_SECONDS)


def test_a_group_goes_on_after_what_it_handled(
    client: Client, kafka: str, names: TopicNames, admin: AdminClient
) -> None:
    """A job handed out but not followed by a call for the next is read again by the group."""
    topic = names.egress("acme")
    _create(admin, _egress(topic, 1))
    _dispatch(kafka, topic, "one", "two", "three")
    with client.dispatched("acme", group="workers", timeout=WAIT_SECONDS) as reader:
        assert [next(reader).id, next(reader).id] == ["one", "two"]
    with client.dispatched("acme", group="workers", timeout=WAIT_SECONDS) as reader:
        assert [next(reader).id, next(reader).id] == ["two", "three"]


def test_a_reader_that_came_before_the_topic_reads_all_of_it(
    client: Client, kafka: str, names: TopicNames, admin: AdminClient
) -> None:
    """Egress topics are made when first needed; a worker may be there earlier."""
    topic = names.egress("acme")
    with client.dispatched("acme", timeout=WAIT_SECONDS) as reader:
        _create(admin, _egress(topic, 2))
        _dispatch(kafka, topic, "first")
        assert next(reader).id == "first"


def test_a_dispatched_job_can_be_submitted_again(
    client: Client, kafka: str, names: TopicNames, admin: AdminClient
) -> None:
    """It goes round with payload and own headers, without ours."""
    topic = names.egress("acme")
    _create(admin, _egress(topic, 1))
    _dispatch(kafka, topic, "one")
    with client.dispatched("acme", from_beginning=True, timeout=WAIT_SECONDS) as reader:
        client.resubmit(next(reader), delay=timedelta(minutes=5))
    [message] = _read_all(kafka, names.jobs)
    assert message.value() == b"payload of one"
    assert message.headers() == [
        ("own", b"1"),
        ("own", b"\xff"),
        (h.ID, b"one"),
        (h.DELAY_MS, b"300000"),
    ]


# --- asyncio -------------------------------------------------------------------------------


def _run(kafka: str, app_id: str, body: Callable[[AsyncClient], Awaitable[None]]) -> None:
    async def main() -> None:
        async with AsyncClient(kafka, app_id, client_options(kafka)) as client:
            await body(client)

    asyncio.run(main())


def test_the_asyncio_client_writes_what_the_blocking_one_writes(
    client: Client, kafka: str, names: TopicNames
) -> None:
    """Both twins write equal records for jobs, cancels and settings."""
    client.submit("acme", "a", {"x": 1}, due_at=DUE, key="k", headers={"own": "1"})
    client.cancel("acme", "a")
    client.set_tenant("acme", rate="1/s", burst=2)
    client.pause("acme")

    async def body(twin: AsyncClient) -> None:
        submitted = await twin.submit(
            "acme", "a", {"x": 1}, due_at=DUE, key="k", headers={"own": "1"}
        )
        assert submitted.offset == 2
        await twin.cancel("acme", "a")
        await twin.unset_tenant("acme")
        await twin.set_tenant("acme", rate="1/s", burst=2)
        await twin.pause("acme")
        assert await twin.tenants() == client.tenants()
        await twin.resume("acme")

    _run(kafka, names.app_id, body)
    jobs = [(m.key(), m.value(), m.headers()) for m in _read_all(kafka, names.jobs)]
    assert len(jobs) == 4
    assert jobs[:2] == jobs[2:]
    settings = [m.value() for m in _read_all(kafka, names.tenant_settings, 1)]
    assert settings[:2] == settings[3:5]
    assert client.tenants()["acme"].paused is False


def test_many_tasks_share_one_asyncio_client(kafka: str, names: TopicNames) -> None:
    """Concurrent submits each get their own receipt, and the loop is not blocked meanwhile."""

    async def body(client: AsyncClient) -> None:
        submits = [client.submit("acme", f"{n}", n, due_at=DUE) for n in range(500)]
        receipts = await asyncio.gather(*submits)
        assert [receipt.id for receipt in receipts] == [f"{n}" for n in range(500)]
        assert sorted(receipt.offset for receipt in receipts) == list(range(500))

    _run(kafka, names.app_id, body)


@pytest.mark.parametrize("is_async", [False, True])
def test_the_asyncio_client_submits_many(kafka: str, names: TopicNames, *, is_async: bool) -> None:
    """Plain and asynchronous iterables longer than a chunk are submitted."""
    count = CHUNK_JOBS_MAX + 10

    async def produce() -> AsyncIterator[Job]:
        for number in range(count):
            yield Job(tenant="acme", id=f"{number}", payload=number, due_at=DUE)

    async def body(client: AsyncClient) -> None:
        jobs = produce() if is_async else [job async for job in produce()]
        assert await client.submit_many(jobs) == count
        with pytest.raises(DeliveryErrors, match="1 of 1"):
            await client.submit_many([Job(tenant="acme", id="", payload=1, due_at=DUE)])

    _run(kafka, names.app_id, body)
    assert len(_read_all(kafka, names.jobs)) == count


def test_the_asyncio_client_raises_delivery_failures() -> None:
    """A broker that is away is raised in the task that submitted."""

    async def main() -> None:
        options = {"delivery.timeout.ms": "300"}
        async with AsyncClient(UNREACHABLE, "away", options) as client:
            with pytest.raises(DeliveryError, match="job 'sms-1' of tenant 'acme'"):
                await client.submit("acme", "sms-1", b"x", due_at=DUE)

    asyncio.run(main())


def test_the_asyncio_reader_reads_as_the_blocking_one(
    kafka: str, names: TopicNames, admin: AdminClient
) -> None:
    """From now on without a group; a group goes on after what it handled."""
    topic = names.egress("acme")

    async def body(client: AsyncClient) -> None:
        async with client.dispatched("acme", timeout=WAIT_SECONDS) as reader:
            await asyncio.to_thread(_create, admin, _egress(topic, 1))
            await asyncio.to_thread(_dispatch, kafka, topic, "one", "two", "three")
            assert [(await anext(reader)).id for _ in range(3)] == ["one", "two", "three"]
        async with client.dispatched("acme", timeout=0.5) as reader:
            assert [job.id async for job in reader] == []
        for expected in (["one", "two"], ["two", "three"]):
            async with client.dispatched("acme", group="w", timeout=WAIT_SECONDS) as reader:
                assert [(await anext(reader)).id for _ in range(2)] == expected

    _run(kafka, names.app_id, body)


def test_a_cancelled_task_leaves_the_client_usable(kafka: str, names: TopicNames) -> None:
    """Cancelling a waiting task does not break deliveries of others."""

    async def body(client: AsyncClient) -> None:
        task = asyncio.create_task(client.submit("acme", "a", 1, due_at=DUE))
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert (await client.submit("acme", "b", 1, due_at=DUE)).id == "b"

    _run(kafka, names.app_id, body)
