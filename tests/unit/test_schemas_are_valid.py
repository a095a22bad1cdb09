"""The JSON Schemas say what the code accepts and emits, no less and hardly more."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import orjson
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from streamsched.core import headers as h
from streamsched.core.cycle import OutRecord
from streamsched.core.limits import JOB_BYTES_MAX
from streamsched.core.names import TopicNames
from streamsched.core.rejection import Reason, Rejection
from streamsched.core.tenant_settings import InvalidSettings, decode_settings
from streamsched.core.wire import decode
from streamsched.schema import SCHEMA_NAMES, load_schema
from streamsched.testing import Driver, Record

NAMES = TopicNames("app")
NOW_MS = 1_800_000_000_000


def _accepts(name: str, value: object) -> bool:
    return bool(jsonschema.Draft202012Validator(load_schema(name)).is_valid(value))


def _check(name: str, value: object) -> None:
    jsonschema.Draft202012Validator(load_schema(name)).validate(value)


def _ingest(envelope: object) -> Any:
    record = Record(b"acme", orjson.dumps(envelope), (), NOW_MS, 0)
    return decode(record, NOW_MS)


@pytest.mark.parametrize("name", SCHEMA_NAMES)
def test_each_schema_is_valid_and_named_as_its_file(name: str) -> None:
    """Every schema is JSON Schema 2020-12 with an id of its own."""
    schema = load_schema(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"urn:streamsched:{name}"


def test_every_file_in_schemas_can_be_loaded_and_no_other() -> None:
    """The list of names is the folder's content."""
    folder = Path(__file__).parents[2] / "schemas"
    assert sorted(path.name for path in folder.iterdir()) == [f"{n}.json" for n in SCHEMA_NAMES]
    with pytest.raises(ValueError, match=r"there are dead-letter-headers\.v1, "):
        load_schema("job")


BASE = {"id": "a", "due_at": NOW_MS, "payload": {"x": 1}}

GOOD_JOBS: Sequence[dict[str, Any]] = [
    BASE,
    {**BASE, "tenant": "t", "key": "", "headers": {"a": "b"}, "op": "schedule"},
    {**BASE, "payload": None},
    {**BASE, "due_at": "2027-01-31T10:00:00.1234Z", "expires_at": "2027-01-31t10:00:00+05:30"},
    {"id": "a", "delay_ms": 0, "payload": "x", "expires_at": NOW_MS},
    {"id": "a", "op": "cancel"},
]

BAD_JOBS: Sequence[Any] = [
    [],
    {},
    {**BASE, "id": ""},
    {**BASE, "id": "x" * 256},
    {**BASE, "id": "a\x7f"},
    {**BASE, "id": 5},
    {**BASE, "tenant": "a.b"},
    {**BASE, "tenant": None},
    {**BASE, "due_at": None},
    {**BASE, "due_at": 1_800_000_000},
    {**BASE, "due_at": "2027-01-31T10:00:00"},
    {**BASE, "due_at": "2027-01-31 10:00:00Z"},
    {**BASE, "due_at": "soon"},
    {**BASE, "delay_ms": 5},
    {"id": "a", "payload": 1},
    {"id": "a", "due_at": NOW_MS},
    {"id": "a", "delay_ms": -1, "payload": 1},
    {"id": "a", "delay_ms": "5", "payload": 1},
    {**BASE, "expires_at": 5},
    {**BASE, "expire_at": NOW_MS},
    {**BASE, "key": 5},
    {**BASE, "headers": {"a": 5}},
    {**BASE, "headers": {"streamsched-id": "x"}},
    {**BASE, "headers": []},
    {**BASE, "op": "run"},
]


@pytest.mark.parametrize("envelope", GOOD_JOBS)
def test_jobs_that_the_schema_allows_are_accepted(envelope: object) -> None:
    """Schema and ingest agree on good envelopes."""
    _check("job.v1", envelope)
    assert not isinstance(_ingest(envelope), Rejection)


@pytest.mark.parametrize("envelope", BAD_JOBS)
def test_jobs_that_the_schema_forbids_are_rejected(envelope: object) -> None:
    """Schema and ingest agree on bad envelopes."""
    assert not _accepts("job.v1", envelope)
    assert isinstance(_ingest(envelope), Rejection)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-10, 10**13),
    st.text(max_size=5),
    st.sampled_from(["2027-01-31T10:00:00Z", "schedule", "cancel", "acme", ""]),
    st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
)
FIELDS = (*load_schema("job.v1")["properties"], "other")


# Making examples is slow at times on two shared cores, and that is no fault of the schema.
@hypothesis_settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=6))
def test_whatever_ingest_accepts_the_schema_allows(envelope: dict[str, Any]) -> None:
    """No job is accepted that its schema forbids."""
    if not isinstance(_ingest(envelope), Rejection):
        _check("job.v1", envelope)


HEADER_MODE: Sequence[tuple[dict[str, str], bool]] = [
    ({h.ID: "a", h.DUE_AT: str(NOW_MS)}, True),
    ({h.ID: "a", h.DUE_AT: "2027-01-31T10:00:00Z", h.KEY: "", h.TENANT: "t"}, True),
    ({h.ID: "a", h.DELAY_MS: "0", h.EXPIRES_AT: str(NOW_MS), h.OP: "schedule"}, True),
    ({h.ID: "a", h.OP: "cancel"}, True),
    ({h.DUE_AT: str(NOW_MS)}, False),
    ({h.ID: "a", h.DUE_AT: str(NOW_MS), h.DELAY_MS: "0"}, False),
    ({h.ID: "a", h.DUE_AT: "1800000000"}, False),
    ({h.ID: "a", h.DUE_AT: "now"}, False),
    ({h.ID: "a", h.DELAY_MS: "-1"}, False),
    ({h.ID: "a", h.DELAY_MS: "1.5"}, False),
    ({h.ID: "a", h.DUE_AT: str(NOW_MS), h.OP: "run"}, False),
    ({h.ID: "a", h.DUE_AT: str(NOW_MS), "streamsched-due": "x"}, False),
    ({h.ID: "a", h.DUE_AT: str(NOW_MS), h.TENANT: "a.b"}, False),
]


@pytest.mark.parametrize(("headers", "good"), HEADER_MODE)
def test_header_mode_is_described_as_it_is_read(headers: dict[str, str], good: bool) -> None:  # noqa: FBT001
    """Schema and ingest agree on the headers of a job."""
    assert _accepts("job-headers.v1", headers) is good
    encoded = [(name, text.encode()) for name, text in headers.items()]
    decoded = decode(Record(b"acme", b"x", encoded, NOW_MS, 0), NOW_MS)
    assert isinstance(decoded, Rejection) is not good


GOOD_SETTINGS: Sequence[dict[str, Any]] = [
    {},
    {"rate": "unlimited"},
    {"rate": "007/05s", "burst": 1},
    {"rate": "1/333ms", "burst": 1_000_000, "paused": True},
    {"egress_topic": "a.b_c-d", "egress_partitions": 1_000, "events": "all"},
    {"paused": False, "events": "outcomes"},
]
BAD_SETTINGS: Sequence[Any] = [
    [],
    {"rate": None},
    {"rate": 40},
    {"rate": "0/s"},
    {"rate": "1/0s"},
    {"rate": "1"},
    {"rate": "1/w"},
    {"burst": 0},
    {"burst": True},
    {"burst": "1"},
    {"burst": 1_000_001},
    {"paused": "yes"},
    {"egress_topic": ""},
    {"egress_topic": "a b"},
    {"egress_topic": ".."},
    {"egress_topic": "__x"},
    {"egress_topic": "x" * 250},
    {"egress_partitions": 0},
    {"egress_partitions": 1_001},
    {"events": "some"},
    {"pause": True},
]


@pytest.mark.parametrize("settings", GOOD_SETTINGS)
def test_settings_that_the_schema_allows_are_accepted(settings: dict[str, Any]) -> None:
    """Schema and code agree on good settings."""
    _check("tenant-settings.v1", settings)
    decode_settings(orjson.dumps(settings), NAMES)


@pytest.mark.parametrize("settings", BAD_SETTINGS)
def test_settings_that_the_schema_forbids_are_invalid(settings: object) -> None:
    """Schema and code agree on bad settings."""
    assert not _accepts("tenant-settings.v1", settings)
    with pytest.raises(InvalidSettings):
        decode_settings(orjson.dumps(settings), NAMES)


def _added(record: OutRecord, received: int = 0) -> dict[str, str]:
    """The headers that the scheduler added behind those received, none twice."""
    added = [(name, (value or b"").decode()) for name, value in record.headers[received:]]
    assert len(dict(added)) == len(added)
    return dict(added)


REFUSED: Sequence[Record] = [
    Record(b"acme", b"\xff"),
    Record(b"acme", b"{}"),
    Record(None, b'{"id":"a","due_at":1800000000000,"payload":1}'),
    Record(b"acme", None),
    Record(b"acme", b"x", [("own", b"\xff"), (h.ID, b"a")]),
    Record(b"acme", b"x", [(h.ID, b"a"), (h.ID, b"b")]),
    Record(b"acme", bytes(JOB_BYTES_MAX + 1)),
]


@pytest.mark.parametrize("record", REFUSED)
def test_rejected_records_carry_the_headers_of_the_schema(record: Record) -> None:
    """What is added to a refused record, and its event, are as described."""
    driver = Driver()
    driver.pipe(record)
    driver.settle()
    [rejected] = driver.read(driver.names.rejected)
    received = 0 if rejected.key is None and rejected.value is None else len(record.headers)
    added = _added(rejected, received)
    _check("rejected-headers.v1", added)
    assert ("streamsched-error-sha256" in added) == (len(record.value or b"") > JOB_BYTES_MAX)
    [event] = driver.read_events()
    _check("event.v1", event)
    assert event["reason"] == added[h.ERROR_CODE]


def test_every_reason_code_is_in_the_schemas() -> None:
    """A new reason code needs a place in both schemas that list them."""
    codes = sorted(reason.value for reason in Reason)
    headers = load_schema("rejected-headers.v1")["properties"]
    assert sorted(headers[h.ERROR_CODE]["enum"]) == codes
    event = load_schema("event.v1")["$defs"]["rejected"]["properties"]
    assert sorted(event["reason"]["enum"]) == codes


def test_all_outcomes_of_a_job_emit_what_the_schemas_say() -> None:
    """Dispatched jobs, dead letters and every event of a job's life are as described."""
    driver = Driver()
    driver.set_tenant("acme", events="all")
    own = [("own", b"1")]
    driver.submit("acme", "sent", headers=own)
    driver.submit("acme", "late", due_at_ms=driver.now_ms - 10, expires_at_ms=driver.now_ms - 5)
    driver.submit("acme", "twice", due_at_ms=driver.now_ms + 1_000)
    driver.submit("acme", "twice", due_at_ms=driver.now_ms + 2_000)
    driver.cancel("acme", "twice")
    driver.cancel("acme", "twice")
    driver.advance(5_000)
    [sent] = driver.read_egress("acme")
    _check("dispatched-headers.v1", _added(sent, len(own)))
    [dead] = driver.read(driver.names.dead_letters)
    _check("dead-letter-headers.v1", _added(dead))
    events = driver.read_events()
    for event in events:
        _check("event.v1", event)
    assert {event["event"] for event in events} == {
        "scheduled",
        "dispatched",
        "expired",
        "replaced",
        "cancelled",
        "cancel_not_found",
    }


def test_an_undeliverable_job_emits_what_the_schemas_say() -> None:
    """The dead letter of a job that the broker refuses alone, and its event, are as described."""
    driver = Driver()
    topic = driver.names.egress("acme")
    driver.refuse_records(topic, lambda record: record.value == b"bad")
    own = [("own", b"1")]
    driver.submit("acme", "refused", payload=b"bad", headers=own)
    for name in ("first", "second", "third"):
        driver.submit("acme", name, payload=b"good")
    driver.advance(60_000)
    [dead] = driver.read(driver.names.dead_letters)
    added = _added(dead, len(own))
    _check("dead-letter-headers.v1", added)
    assert added[h.ERROR_CODE] == "undeliverable"
    events = driver.read_events()
    [event] = [event for event in events if event["event"] == "undeliverable"]
    _check("event.v1", event)
    assert (event["reason"], event["topic"]) == ("undeliverable", topic)


def test_events_beyond_the_contract_are_not_allowed() -> None:
    """The event schema is strict: no other event, no missing and no further field."""
    good = {"event": "cancelled", "tenant": "t", "id": "a", "at": 1, "due_at": 1, "source": "0-1"}
    assert _accepts("event.v1", good)
    assert not _accepts("event.v1", {**good, "event": "moved"})
    assert not _accepts("event.v1", {**good, "more": 1})
    assert not _accepts("event.v1", {**good, "tenant": None})
    for field in good:
        assert not _accepts("event.v1", {name: good[name] for name in good if name != field})
