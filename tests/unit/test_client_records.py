"""What the SDK sends: accepted by ingest as meant, or refused before it is sent."""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, NamedTuple

import confluent_kafka
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from streamsched.client.batch import CHUNK_BYTES_MAX, CHUNK_JOBS_MAX, FAILURES_MAX, Batch, prepare
from streamsched.client.connection import Connection
from streamsched.client.delivery import DeliveryErrors
from streamsched.client.dispatched import Dispatched, dispatched_from, resubmission
from streamsched.client.jobs import (
    Job,
    Record,
    Submitted,
    cancel_record,
    job_record,
    new_job_id,
)
from streamsched.client.tenants import (
    TenantSettings,
    egress_topic_of,
    pause_record,
    settings_record,
    tenants_of,
)
from streamsched.core import headers as h
from streamsched.core.commands import Cancel, Schedule
from streamsched.core.limits import DUE_AHEAD_MS_MAX, JOB_BYTES_MAX
from streamsched.core.names import TopicNames
from streamsched.core.placement import partition_for
from streamsched.core.settings_view import SettingsView
from streamsched.core.wire import decode, record_bytes

NAMES = TopicNames("app")
NOW_MS = 1_800_000_000_000
NOW = datetime.fromtimestamp(NOW_MS / 1000, UTC)
HOUR = timedelta(hours=1)


class Received(NamedTuple):
    """A record as ingest sees it."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    offset: int = 7
    timestamp: int | None = NOW_MS


def _decoded(record: Record) -> Any:
    return decode(Received(record.key, record.value, record.headers), NOW_MS)


def _job(**fields: Any) -> Job:
    return Job(**{"tenant": "acme", "id": "sms-1", "payload": b"x", "due_at": NOW + HOUR, **fields})


def _refusal(**fields: Any) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the text is looked at by the caller)
        job_record(_job(**fields), NAMES, NOW_MS)
    return str(caught.value)


def test_a_job_arrives_at_ingest_as_it_was_meant() -> None:
    """Tenant, id, times, key, own headers and payload are what ingest reads."""
    own = [("trace", "ü"), ("trace", b"\xff"), ("empty", None)]
    job = _job(payload=b"\x00\xff", expires_at=NOW + 2 * HOUR, key="k", headers=own)
    record = job_record(job, NAMES, NOW_MS)
    assert record.topic == "app.jobs"
    assert record.key == b"acme"
    assert _decoded(record) == Schedule(
        tenant="acme",
        job_id=b"sms-1",
        due_ms=NOW_MS + 3_600_000,
        expires_ms=NOW_MS + 7_200_000,
        key=b"k",
        headers=[("trace", "ü".encode()), ("trace", b"\xff"), ("empty", None)],
        payload=b"\x00\xff",
    )


def test_a_cancel_arrives_at_ingest_as_a_cancel() -> None:
    """A cancel is a null value that names tenant and id."""
    record = cancel_record("acme", "sms-1", NAMES)
    assert record.value is None
    assert _decoded(record) == Cancel("acme", b"sms-1")


def test_a_delay_counts_from_the_records_own_timestamp() -> None:
    """A delay is sent as a delay, parts of a millisecond rounded up."""
    record = job_record(_job(due_at=None, delay=timedelta(microseconds=1_001)), NAMES, NOW_MS)
    assert _decoded(record).due_ms == NOW_MS + 2


def test_parts_of_a_millisecond_round_up_for_due_and_down_for_expiry() -> None:
    """A job is never early and never late by rounding."""
    at = NOW + timedelta(microseconds=1_500)
    decoded = _decoded(job_record(_job(due_at=at, expires_at=at), NAMES, NOW_MS))
    assert (decoded.due_ms, decoded.expires_ms) == (NOW_MS + 2, NOW_MS + 1)


def test_offsets_of_datetimes_count() -> None:
    """The same moment in another zone is the same due time."""
    zoned = (NOW + HOUR).astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert job_record(_job(due_at=zoned), NAMES, NOW_MS) == job_record(_job(), NAMES, NOW_MS)


@pytest.mark.parametrize(
    ("payload", "value"),
    [
        (b"\x00raw", b"\x00raw"),
        (bytearray(b"raw"), b"raw"),
        (b"", b""),
        ("text", b'"text"'),
        ({"a": [1, None]}, b'{"a":[1,null]}'),
        ([1.5], b"[1.5]"),
        (0, b"0"),
        (False, b"false"),
    ],
)
def test_bytes_are_sent_as_they_are_and_all_else_as_json(payload: object, value: bytes) -> None:
    """A payload of bytes is untouched; anything else becomes JSON."""
    assert job_record(_job(payload=payload), NAMES, NOW_MS).value == value


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tenant": ""}, "tenant '' is not legal"),
        ({"tenant": "a.b"}, "tenant 'a.b' is not legal"),
        ({"tenant": "acme\n"}, "is not legal"),
        ({"tenant": "ä"}, "is not legal"),
        ({"tenant": "x" * 101}, "is not legal"),
        ({"tenant": b"acme"}, "tenant is a bytes: give text"),
        ({"id": ""}, "0 bytes of UTF-8"),
        ({"id": "ä" * 128}, "256 bytes of UTF-8"),
        ({"id": "a\x00"}, "control character"),
        ({"id": "a\x85"}, "control character"),
        ({"id": "\ud800"}, "lone surrogate"),
        ({"id": 5}, "id is a int: give text"),
        ({"due_at": None}, "exactly one of due_at and delay"),
        ({"delay": HOUR}, "exactly one of due_at and delay"),
        ({"due_at": datetime(2027, 1, 1)}, "has no offset"),  # noqa: DTZ001
        ({"due_at": NOW_MS // 1000}, "multiply seconds by 1000"),
        ({"due_at": NOW_MS * 1000}, "not microseconds"),
        ({"due_at": NOW_MS + DUE_AHEAD_MS_MAX + 1}, "more than ten years"),
        ({"due_at": True}, "due_at is a bool"),
        ({"due_at": "2027-01-01T00:00:00Z"}, "due_at is a str"),
        ({"expires_at": 1.5}, "expires_at is a float"),
        ({"due_at": None, "delay": timedelta(seconds=-1)}, "out of range"),
        ({"due_at": None, "delay": timedelta(days=4_000)}, "out of range"),
        ({"due_at": None, "delay": 5}, "delay is a int: give a timedelta"),
        ({"key": b"k"}, "key is a bytes: give text"),
        ({"key": "\udc00"}, "lone surrogate"),
        ({"payload": None}, "the payload is missing"),
        ({"payload": object()}, "no JSON value"),
        ({"payload": float("nan")}, "a number that JSON does not know"),
        ({"payload": {"a": [None, 1.5, {"b": float("-inf")}]}}, "a number that JSON does not know"),
        ({"payload": 2**64}, "no JSON value"),
        ({"headers": {"streamsched-id": "x"}}, "is reserved"),
        ({"headers": {"a": 5}}, "give str or bytes"),
        ({"headers": [("\ud800", "x")]}, "lone surrogate"),
        ({"headers": [("a\x00b", "x")]}, "NUL"),
        ({"payload": bytes(JOB_BYTES_MAX)}, f"at most {JOB_BYTES_MAX} are allowed"),
    ],
)
def test_what_ingest_would_refuse_is_refused_before_it_is_sent(
    fields: dict[str, Any], words: str
) -> None:
    """Each fault raises ValueError with one sentence that names it."""
    refusal = _refusal(**fields)
    assert words in refusal
    assert "\n" not in refusal


def test_the_largest_job_is_accepted_and_one_byte_more_is_not() -> None:
    """The size counts key, value and headers, as ingest counts them."""
    room = JOB_BYTES_MAX - record_bytes(job_record(_job(payload=b""), NAMES, NOW_MS))
    assert isinstance(_decoded(job_record(_job(payload=bytes(room)), NAMES, NOW_MS)), Schedule)
    assert "at most" in _refusal(payload=bytes(room + 1))


# Making examples is slow at times on two shared cores, and that is no fault of the SDK.
patient = hypothesis_settings(suppress_health_check=[HealthCheck.too_slow])

TEXT = st.text(max_size=300)
MOMENTS = st.one_of(
    st.none(),
    st.integers(-1, NOW_MS + 2 * DUE_AHEAD_MS_MAX),
    st.datetimes(timezones=st.just(UTC) | st.none()),
)


@patient
@given(
    tenant=TEXT | st.from_regex(r"[A-Za-z0-9_-]{1,100}", fullmatch=True),
    job_id=TEXT,
    due_at=MOMENTS,
    delay=st.none() | st.timedeltas(),
    expires_at=MOMENTS,
    key=st.none() | TEXT,
    headers=st.lists(st.tuples(TEXT, st.none() | TEXT | st.binary())),
    payload=st.binary() | TEXT | st.integers() | st.lists(st.floats()),
)
def test_whatever_is_not_refused_here_is_accepted_by_ingest(**fields: Any) -> None:
    """A job is either refused by the SDK with ValueError or read by ingest; nothing between."""
    fields["id"] = fields.pop("job_id")
    try:
        record = job_record(Job(**fields), NAMES, NOW_MS)
    except ValueError:
        return
    decoded = _decoded(record)
    assert isinstance(decoded, Schedule)
    assert decoded.tenant == fields["tenant"]
    assert decoded.job_id.decode() == fields["id"]


def test_fresh_ids_are_uuids_of_version_7_that_grow_with_time() -> None:
    """Ids are unique and carry the time in front."""
    ids = [new_job_id() for _ in range(2_000)]
    assert len(set(ids)) == len(ids)
    assert {(uuid.UUID(i).version, uuid.UUID(i).variant) for i in ids} == {(7, uuid.RFC_4122)}
    times = [i[:12] for i in ids]
    assert times == sorted(times)
    assert Job(tenant="a", payload=1).id != Job(tenant="a", payload=1).id


@given(tenant=st.binary(min_size=1, max_size=100), partitions=st.integers(1, 1_000))
def test_the_producers_partitioner_and_the_schedulers_agree(tenant: bytes, partitions: int) -> None:
    """Librdkafka's murmur2 puts a tenant where the core looks for it."""
    assert confluent_kafka.murmur2(tenant, partitions) == partition_for(tenant, partitions)


@pytest.mark.parametrize(
    "option",
    [
        {"partitioner": "consistent_random"},
        {"acks": "1"},
        {"request.required.acks": "0"},
        {"enable.idempotence": "false"},
        {"isolation.level": "read_uncommitted"},
    ],
)
def test_an_option_that_would_break_a_promise_is_refused(option: dict[str, str]) -> None:
    """Placement, acknowledgement and isolation cannot be configured away."""
    with pytest.raises(ValueError, match=next(iter(option))):
        Connection("localhost:9092", "app", option)


def test_other_options_reach_producer_and_consumer() -> None:
    """The user's client options are handed on, next to those that are fixed."""
    given_options = {"acks": "-1", "enable.idempotence": True, "linger.ms": "50"}
    connection = Connection("host:1", "app", given_options)
    producer, consumer = connection.producer_config(), connection.consumer_config("workers")
    assert producer["linger.ms"] == "50"
    assert producer["partitioner"] == "murmur2_random"
    assert producer["acks"] == "all"
    assert producer["allow.auto.create.topics"] is False
    assert producer["bootstrap.servers"] == consumer["bootstrap.servers"] == "host:1"
    assert consumer["group.id"] == "workers"
    assert consumer["isolation.level"] == "read_committed"


def _message(headers: Any, key: bytes = b"sms-1") -> Any:
    return confluent_kafka.Message(
        topic="app.egress.acme", partition=3, offset=9, key=key, value=b"{}", headers=headers
    )


OURS: list[tuple[str, bytes | None]] = [
    (h.ID, b"sms-1"),
    (h.TENANT, b"acme"),
    (h.DUE_AT, b"1800000000000"),
    (h.DISPATCHED_AT, b"1800000000005"),
    (h.OCCURRENCE, b"0"),
    (h.SOURCE, b"2-41"),
]
OWN: list[tuple[str, bytes | None]] = [("a", b"1"), ("a", b"\xff"), ("b", None)]


def test_a_dispatched_record_is_read_with_its_producers_headers() -> None:
    """Our headers become fields; the producer's own are kept, repeated ones too."""
    assert dispatched_from(_message([*OWN, *OURS])) == Dispatched(
        tenant="acme",
        id="sms-1",
        due_at_ms=1_800_000_000_000,
        dispatched_at_ms=1_800_000_000_005,
        occurrence=0,
        source="2-41",
        key=b"sms-1",
        value=b"{}",
        headers=tuple(OWN),
        topic="app.egress.acme",
        partition=3,
        offset=9,
    )


def test_a_record_that_the_scheduler_did_not_write_is_no_dispatched_job() -> None:
    """A stranger's record on a shared egress topic is passed over."""
    assert dispatched_from(_message(OWN)) is None
    assert dispatched_from(_message([*OURS[1:], (h.DUE_AT, b"soon")])) is None


@pytest.mark.parametrize(("key", "kept"), [(b"sms-1", None), (b"k", b"k")])
def test_a_resubmitted_job_keeps_all_but_our_headers(key: bytes, kept: bytes | None) -> None:
    """Payload, key and own headers go round; the scheduler's headers are stripped."""
    record = dispatched_from(_message([*OWN, *OURS], key))
    assert record is not None
    decoded = _decoded(job_record(resubmission(record, delay=HOUR), NAMES, NOW_MS))
    assert decoded == Schedule("acme", b"sms-1", NOW_MS + 3_600_000, 0, kept, OWN, b"{}")
    assert resubmission(record, delay=HOUR, id="again").id == "again"


def test_a_settings_record_holds_exactly_what_was_given() -> None:
    """`None` is an absent field; no settings at all is a tombstone."""
    record = settings_record("acme", TenantSettings(rate="40/s", paused=False), NAMES)
    assert (record.topic, record.key) == ("app.tenant-settings", b"acme")
    assert record.value == b'{"rate":"40/s","paused":false}'
    assert settings_record("*", None, NAMES).value is None


@pytest.mark.parametrize(
    "settings",
    [
        TenantSettings(rate="0/s"),
        TenantSettings(rate="fast"),
        TenantSettings(burst=0),
        TenantSettings(egress_topic="app.jobs"),
        TenantSettings(egress_topic="__consumer_offsets"),
        TenantSettings(egress_partitions=0),
        TenantSettings(events="some"),
    ],
)
def test_settings_that_the_scheduler_would_not_accept_are_refused(settings: TenantSettings) -> None:
    """The SDK never publishes an invalid settings record."""
    with pytest.raises(ValueError, match=r"rate|burst|egress|events"):
        settings_record("acme", settings, NAMES)


def _view(*records: tuple[bytes, bytes | None]) -> SettingsView:
    view = SettingsView(NAMES)
    for offset, (key, value) in enumerate(records):
        view.feed(offset, key, value)
    return view


def test_pause_changes_one_field_of_the_newest_record() -> None:
    """All other fields stay, and a tenant without a record gets one with `paused` alone."""
    view = _view((b"acme", b'{"rate":"1/s"}'), (b"acme", b'{"rate":"2/s","burst":3}'))
    record = pause_record("acme", view, paused=True, names=NAMES)
    assert record.value == b'{"rate":"2/s","burst":3,"paused":true}'
    record = pause_record("other", view, paused=False, names=NAMES)
    assert record.value == b'{"paused":false}'


def test_pause_does_not_take_back_an_invalid_record_silently() -> None:
    """Where the newest record is invalid, the caller is told to publish the whole record."""
    view = _view((b"acme", b'{"rate":"1/s"}'), (b"acme", b'{"rate":"0/s"}'))
    with pytest.raises(ValueError, match="set_tenant"):
        pause_record("acme", view, paused=True, names=NAMES)


def test_tenants_are_listed_as_published_with_their_faults() -> None:
    """The last valid record is shown, and why the newest one is not."""
    view = _view((b"acme", b'{"rate":"60/m"}'), (b"*", b'{"rate":"unlimited"}'), (b"acme", b"no"))
    listed = tenants_of(view)
    assert listed["*"] == TenantSettings(rate="unlimited")
    assert listed["acme"].rate == "60/m"
    assert "JSON" in listed["acme"].fault


def test_the_egress_topic_follows_own_then_default_then_built_in_settings() -> None:
    """A reader looks where the scheduler dispatches to."""
    view = _view((b"*", b'{"egress_topic":"all"}'), (b"acme", b'{"egress_topic":"own"}'))
    assert egress_topic_of(view, "acme", NAMES) == "own"
    assert egress_topic_of(view, "other", NAMES) == "all"
    assert egress_topic_of(_view(), "other", NAMES) == "app.egress.other"


def test_a_batch_is_full_by_jobs_or_by_bytes() -> None:
    """A chunk is bounded both ways, whatever the jobs' size."""
    batch = Batch()
    for _ in range(CHUNK_JOBS_MAX):
        assert not batch.is_full
        batch.add(_job(), 200)
    assert batch.is_full
    batch.open_chunk()
    batch.add(_job(), CHUNK_BYTES_MAX)
    assert batch.is_full


def test_a_chunk_ends_with_its_last_delivery_report() -> None:
    """Whichever comes last, the reports or the closing of the chunk, ends it."""
    batch = Batch()
    first, second = batch.add(_job(), 1), batch.add(_job(), 1)
    first(Submitted("acme", "sms-1", 0, 0))
    done = batch.close_chunk()
    assert not done.done()
    second(Submitted("acme", "sms-1", 0, 1))
    assert done.done()
    assert batch.outcome() == 2


def test_invalid_jobs_of_a_batch_are_listed_and_end_it_when_too_many() -> None:
    """Each failed job is named with its place; after the limit no more are taken."""
    batch = Batch()
    assert prepare(_job(due_at=NOW_MS + 1), batch, NAMES) is not None
    while not batch.is_hopeless:
        assert prepare(_job(id=""), batch, NAMES) is None
    with pytest.raises(DeliveryErrors, match="number 1: id '' has 0 bytes") as caught:
        batch.outcome()
    assert [failure.index for failure in caught.value.failures] == list(range(1, FAILURES_MAX + 1))
    assert (caught.value.taken, caught.value.submitted) == (FAILURES_MAX + 1, 1)
