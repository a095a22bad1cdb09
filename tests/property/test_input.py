"""Whatever comes in, accept or reject comes out, and the next record is served."""

import json

from hypothesis import given
from hypothesis import strategies as st

from streamsched.core import headers as h
from streamsched.core.commands import Cancel, Schedule
from streamsched.core.rejection import Rejection
from streamsched.core.wire import decode
from streamsched.testing import Driver, Record
from streamsched.testing.driver import START_MS
from tests.property.model import rows_of
from tests.property.strategies import json_values, records, settings_keys, settings_values


@given(records)
def test_decode_accepts_or_rejects(record: Record) -> None:
    """`decode` raises nothing, and what it accepts is legal."""
    found = decode(record, START_MS)
    assert isinstance(found, Schedule | Cancel | Rejection)
    if isinstance(found, Rejection):
        assert 0 < len(found.message.encode(errors="replace")) < 2_000
        return
    assert 1 <= len(found.job_id) <= 255
    assert not any(ord(letter) < 32 for letter in found.job_id.decode())
    if isinstance(found, Schedule):
        assert 10**11 <= found.due_ms <= START_MS + 3_653 * 86_400_000
        assert not any(name.startswith(h.PREFIX) for name, _ in found.headers)


@given(
    st.binary(max_size=200)
    | st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace"))
)
def test_payload_is_json_wherever_it_is_accepted(payload: bytes) -> None:
    """An envelope is accepted only where its payload is JSON, which then keeps its bytes."""
    value = b'{"id":"a","due_at":1800000000000,"payload":' + payload + b"}"
    found = decode(Record(b"t", value, [], START_MS, 0), START_MS)
    if isinstance(found, Schedule) and found.payload == payload.strip(b" \t\r\n"):
        json.loads(found.payload)


@given(json_values, st.sampled_from([None, 1, "\t"]), st.booleans())
def test_any_json_payload_passes_byte_for_byte(value: object, indent: object, ascii: bool) -> None:  # noqa: A002, FBT001
    """Every JSON value passes, however it is written."""
    payload = json.dumps(value, indent=indent, ensure_ascii=ascii).encode()  # type: ignore[arg-type]
    whole = b'{"payload":' + payload + b',"id":"a","due_at":1800000000000}'
    found = decode(Record(b"t", whole, [], START_MS, 0), START_MS)
    assert isinstance(found, Schedule)
    assert found.payload == payload


@given(st.lists(records, max_size=8), st.lists(st.tuples(settings_keys, settings_values)))
def test_driver_serves_the_next_record(
    given_records: list[Record], given_settings: list[tuple[bytes | None, bytes | None]]
) -> None:
    """After any records and settings a good job is dispatched; every record is accounted for."""
    driver = Driver()
    for key, value in given_settings:
        if key != b"*":
            driver.pipe_settings(key, value)
    for record in given_records:
        driver.pipe(record)
    driver.submit("next", "last")
    driver.advance(1_000)
    assert [record.key for record in driver.read_egress("next")] == [b"last"]
    events = [event["event"] for event in driver.read_events()]
    refused = driver.read(driver.names.rejected)
    assert len(refused) == events.count("rejected")
    accepted = sum(cycle.counts["accepted"] for cycle in driver.cycles)
    cancels = events.count("cancelled") + events.count("cancel_not_found")
    assert accepted + cancels + len(refused) == len(given_records) + 1
    left = sum(cycle.counts["dispatched"] for cycle in driver.cycles)
    ended = left + sum(events.count(kind) for kind in ("replaced", "cancelled", "expired"))
    assert accepted - ended == len(rows_of(driver.partitions[0].store, "jobs"))
    for found in refused:
        marks = dict(found.headers)
        source = given_records[int(marks[h.ERROR_OFFSET] or b"")]
        assert (found.key, found.value) == (source.key, source.value)
        assert list(found.headers[: len(source.headers)]) == list(source.headers)


@given(st.lists(st.tuples(settings_keys, settings_values), max_size=8), st.booleans())
def test_settings_never_stop_the_partition(
    given_settings: list[tuple[bytes | None, bytes | None]],
    from_changelog: bool,  # noqa: FBT001
) -> None:
    """After any settings, and a restart, one valid record puts a tenant's job on its way."""
    driver = Driver()
    driver.submit("a", "1")
    for key, value in given_settings:
        driver.pipe_settings(key, value)
        driver.settle()
    driver.restart(from_changelog=from_changelog)
    driver.submit("a", "2")
    driver.settle()
    driver.set_tenant(rate="unlimited", egress_topic="out", paused=False)
    driver.set_tenant("a", rate="unlimited", egress_topic="out", paused=False)
    driver.advance(1_000)
    ids = {
        value
        for cycle in driver.cycles
        for record in cycle.records
        for name, value in record.headers
        if name == h.ID
    }
    assert ids == {b"1", b"2"}
