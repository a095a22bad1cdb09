"""Ingress records become commands or rejections, each rejection under its documented code."""

import time

import msgspec
import pytest

from streamsched.core import headers as h
from streamsched.core import outbox
from streamsched.core.commands import Cancel, Moved, Schedule
from streamsched.core.limits import DUE_AHEAD_MS_MAX, JOB_BYTES_MAX
from streamsched.core.names import TopicNames
from streamsched.core.rejection import Reason, Rejection
from streamsched.core.wire import decode, record_bytes
from streamsched.testing import Record

NOW = 1_800_000_000_000
ID = (h.ID, b"a")
DUE = (h.DUE_AT, b"1800000000000")
GOOD = b'{"id":"a","due_at":1800000000000,"payload":1}'


def read(
    value: bytes | None,
    *marks: tuple[str, bytes | None],
    key: bytes | None = b"acme",
    timestamp: int | None = NOW,
) -> object:
    """Decode one record."""
    return decode(Record(key, value, marks, timestamp, 0), NOW)


def envelope(**fields: str) -> bytes:
    """An envelope of raw JSON texts; a legal one but for what is given. `-` leaves out."""
    whole = {"id": '"a"', "due_at": str(NOW), "payload": "1", **fields}
    parts = [f'"{name}":{text}' for name, text in whole.items() if text != "-"]
    return ("{" + ",".join(parts) + "}").encode()


REFUSED_ENVELOPES = [
    (b"\xff{}", Reason.NOT_UTF8),
    (b'{"id":"\xc3"}', Reason.NOT_UTF8),
    (b"", Reason.NOT_JSON),
    (b"{", Reason.NOT_JSON),
    (b"x", Reason.NOT_JSON),
    (GOOD + b"x", Reason.NOT_JSON),
    (envelope(payload="NaN"), Reason.NOT_JSON),
    (envelope(payload="-Infinity"), Reason.NOT_JSON),
    (envelope(payload="01"), Reason.NOT_JSON),
    (envelope(payload='"\\x"'), Reason.NOT_JSON),
    (envelope(payload='"\x01"'), Reason.NOT_JSON),
    (envelope(id='"\\ud800"'), Reason.NOT_JSON),
    (envelope(payload='"\\udc00"'), Reason.NOT_JSON),
    (b"[]", Reason.NOT_AN_OBJECT),
    (b"1", Reason.NOT_AN_OBJECT),
    (b"null", Reason.NOT_AN_OBJECT),
    (envelope(payload="[" * 512 + "]" * 512), Reason.TOO_DEEP),
    (b"[" * 100_000, Reason.TOO_DEEP),
    (envelope(expire_at="1"), Reason.UNKNOWN_FIELD),
    (envelope(expire_at="1", id="1"), Reason.UNKNOWN_FIELD),
    (envelope(due_at="1.5"), Reason.WRONG_TYPE),
    (envelope(due_at="true"), Reason.WRONG_TYPE),
    (envelope(due_at="null"), Reason.WRONG_TYPE),
    (envelope(expires_at="[]"), Reason.WRONG_TYPE),
    (envelope(id="-"), Reason.MISSING_ID),
    (envelope(id="1"), Reason.ILLEGAL_ID),
    (envelope(id='""'), Reason.ILLEGAL_ID),
    (envelope(id='"' + "ü" * 128 + '"'), Reason.ILLEGAL_ID),
    (envelope(id='"a\\u0000"'), Reason.ILLEGAL_ID),
    (envelope(id='"\\u0085"'), Reason.ILLEGAL_ID),
    (envelope(id='"a\\n"'), Reason.ILLEGAL_ID),
    (envelope(tenant='""'), Reason.ILLEGAL_TENANT),
    (envelope(tenant='"a.b"'), Reason.ILLEGAL_TENANT),
    (envelope(tenant='"a\\n"'), Reason.ILLEGAL_TENANT),
    (envelope(tenant='"*"'), Reason.ILLEGAL_TENANT),
    (envelope(tenant="1"), Reason.ILLEGAL_TENANT),
    (envelope(tenant='"' + "t" * 101 + '"'), Reason.ILLEGAL_TENANT),
    (envelope(due_at="-"), Reason.MISSING_DUE),
    (envelope(delay_ms="1"), Reason.TWO_DUES),
    (envelope(due_at='"tomorrow"'), Reason.ILLEGAL_TIME),
    (envelope(due_at='"2027-01-15T08:00:00"'), Reason.ILLEGAL_TIME),
    (envelope(due_at="1800000000"), Reason.TIME_IN_SECONDS),
    (envelope(due_at="-1"), Reason.TIME_IN_SECONDS),
    (envelope(due_at="1800000000000000"), Reason.TIME_TOO_FAR),
    (envelope(due_at="9" * 4_300), Reason.TIME_TOO_FAR),
    (envelope(expires_at="1800000000"), Reason.TIME_IN_SECONDS),
    (envelope(due_at="-", delay_ms="9" * 4_300), Reason.TIME_TOO_FAR),
    (envelope(due_at="-", delay_ms="-1"), Reason.ILLEGAL_DELAY),
    (envelope(due_at="-", delay_ms="1.0"), Reason.ILLEGAL_DELAY),
    (envelope(due_at="-", delay_ms='"1"'), Reason.ILLEGAL_DELAY),
    (envelope(payload="-"), Reason.MISSING_PAYLOAD),
    (envelope(key="1"), Reason.ILLEGAL_KEY),
    (envelope(headers="[]"), Reason.ILLEGAL_HEADERS),
    (envelope(headers='{"a":1}'), Reason.ILLEGAL_HEADERS),
    (envelope(headers='{"a\\u0000b":"x"}'), Reason.ILLEGAL_HEADERS),
    (envelope(headers='{"streamsched-id":"x"}'), Reason.ILLEGAL_HEADERS),
    (envelope(op='"delete"'), Reason.ILLEGAL_OP),
    (envelope(op="1"), Reason.ILLEGAL_OP),
    (b" " * (JOB_BYTES_MAX + 1), Reason.TOO_LARGE),
]

REFUSED_HEADERS: list[tuple[bytes | None, list[tuple[str, bytes | None]], Reason]] = [
    (b"", [DUE], Reason.MISSING_ID),
    (b"", [(h.ID, b""), DUE], Reason.ILLEGAL_ID),
    (b"", [(h.ID, b"a\x7f"), DUE], Reason.ILLEGAL_ID),
    (b"", [(h.ID, b"a" * 256), DUE], Reason.ILLEGAL_ID),
    (b"", [(h.ID, b"\xed\xa0\x80"), DUE], Reason.HEADER_NOT_UTF8),
    (b"", [ID, DUE, (h.KEY, b"\xff")], Reason.HEADER_NOT_UTF8),
    (b"", [ID, DUE, (h.OP, None)], Reason.HEADER_NOT_UTF8),
    (b"", [ID, ID, DUE], Reason.DUPLICATE_HEADER),
    (b"", [ID, DUE, ("streamsched-expire-at", b"1")], Reason.UNKNOWN_HEADER),
    (b"", [ID, DUE, (h.DISPATCHED_AT, b"1")], Reason.UNKNOWN_HEADER),
    (b"", [ID, DUE, (h.MOVED, b"3")], Reason.UNKNOWN_HEADER),
    (b"", [ID, DUE, (h.SOURCE, b"0-1")], Reason.UNKNOWN_HEADER),
    (b"", [ID, DUE, (h.TENANT, b"")], Reason.ILLEGAL_TENANT),
    (b"", [ID], Reason.MISSING_DUE),
    (b"", [ID, DUE, (h.DELAY_MS, b"1")], Reason.TWO_DUES),
    (b"", [ID, (h.DELAY_MS, b"1.5")], Reason.ILLEGAL_DELAY),
    (b"", [ID, (h.DELAY_MS, b"-1")], Reason.ILLEGAL_DELAY),
    (b"", [ID, (h.DUE_AT, b"")], Reason.ILLEGAL_TIME),
    (b"", [ID, (h.DUE_AT, " ١٨".encode())], Reason.ILLEGAL_TIME),
    (b"", [ID, DUE, (h.EXPIRES_AT, b"never")], Reason.ILLEGAL_TIME),
    (b"", [ID, DUE, (h.OP, b"replace")], Reason.ILLEGAL_OP),
    (None, [ID, DUE, (h.OP, b"schedule")], Reason.MISSING_PAYLOAD),
    (None, [DUE], Reason.MISSING_ID),
    (None, [], Reason.MISSING_ID),
    (b"x" * JOB_BYTES_MAX, [ID, DUE], Reason.TOO_LARGE),
]


@pytest.mark.parametrize(("value", "reason"), REFUSED_ENVELOPES)
def test_refused_envelopes(value: bytes, reason: Reason) -> None:
    """Each fault of an envelope has its code and a message that can be sent."""
    refused = read(value)
    assert isinstance(refused, Rejection)
    assert refused.reason is reason
    assert 0 < len(refused.message.encode()) < 1_000


@pytest.mark.parametrize(("value", "marks", "reason"), REFUSED_HEADERS)
def test_refused_header_mode(
    value: bytes | None, marks: list[tuple[str, bytes | None]], reason: Reason
) -> None:
    """Each fault of a record in header mode has its code."""
    refused = read(value, *marks)
    assert isinstance(refused, Rejection)
    assert refused.reason is reason


def test_tenant_of_the_key() -> None:
    """Without a tenant the key must be one."""
    missing, illegal = read(GOOD, key=None), read(GOOD, key=b"a.b")
    assert isinstance(missing, Rejection)
    assert isinstance(illegal, Rejection)
    assert missing.reason is Reason.MISSING_TENANT
    assert illegal.reason is Reason.ILLEGAL_TENANT


@pytest.mark.parametrize("timestamp", [-1, None])
def test_delay_needs_a_timestamp(timestamp: int | None) -> None:
    """A delay on a record without a timestamp is refused, in both modes."""
    for refused in (
        read(envelope(due_at="-", delay_ms="1"), timestamp=timestamp),
        read(b"", ID, (h.DELAY_MS, b"1"), timestamp=timestamp),
    ):
        assert isinstance(refused, Rejection)
        assert refused.reason is Reason.NO_TIMESTAMP


def test_every_reason_is_tested() -> None:
    """No code is without a test; two of them are tested where more than a record decides."""
    seen = {reason for _, reason in REFUSED_ENVELOPES}
    seen |= {reason for *_, reason in REFUSED_HEADERS}
    seen |= {Reason.MISSING_TENANT, Reason.NO_TIMESTAMP}
    seen |= {Reason.MOVED_IN_CIRCLE, Reason.FOREIGN_TENANT}
    assert seen == set(Reason)


def test_envelope_in_full() -> None:
    """Every field of an envelope is read; the payload stays as it stood."""
    value = (
        b' {"op":"schedule","headers":{"x":"\xc3\xbc"},"key":"k","expires_at":1800000000001,'
        b'"due_at":"2027-01-15T08:00:00.0001Z","tenant":"t-1","id":"\xc3\xbc","payload": [1, 2.0] }'
    )
    assert read(value, ("own", b"\xff"), key=b"not.a.tenant") == Schedule(
        "t-1",
        "ü".encode(),
        NOW + 1,
        NOW + 1,
        b"k",
        [("own", b"\xff"), ("x", "ü".encode())],
        b"[1, 2.0]",
    )


def test_header_mode_in_full() -> None:
    """Every header is read; the others pass in order, the value whatever it is."""
    found = read(
        b"\xff\x00",
        ("b", None),
        ID,
        (h.TENANT, b"t"),
        ("a", b"\xff"),
        (h.DELAY_MS, b"7"),
        (h.EXPIRES_AT, b"2027-01-15T08:00:00.0019Z"),
        (h.KEY, b""),
        (h.OP, b"schedule"),
        ("b", b"2"),
    )
    passed = [("b", None), ("a", b"\xff"), ("b", b"2")]
    assert found == Schedule("t", b"a", NOW + 7, NOW + 1, b"", passed, b"\xff\x00")


def test_cancels() -> None:
    """A null value, `op: cancel` in either mode: all cancel, whatever else they say."""
    cancel = Cancel("acme", b"a")
    assert read(None, ID) == cancel
    assert read(b"anything", ID, (h.OP, b"cancel"), (h.DUE_AT, b"nonsense")) == cancel
    assert read(b'{"id":"a","op":"cancel"}') == cancel


def test_depth_of_exactly_the_limit_is_accepted() -> None:
    """512 levels, the envelope's own included; brackets in strings do not count."""
    assert isinstance(read(envelope(payload="[" * 511 + "]" * 511)), Schedule)
    assert isinstance(read(envelope(payload='"' + "[{" * 2_000 + '\\""')), Schedule)


@pytest.mark.parametrize("end", [b"", b"\\", b'"', b"\xc3\xbc"])
def test_depth_is_counted_in_linear_time(end: bytes) -> None:
    """Strings that never end, with many escaped quotes, cost no more than their length."""
    value = b"[]" * 600 + b'"' + b'\\"' * 400_000 + end
    started = time.process_time()
    assert isinstance(read(value), Rejection)
    # Seconds are millions of times what it takes, and a thousandth of what it took.
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    "record",
    [
        Record(b"acme", b"x", [("a", b"")] * 130_000 + [ID, DUE], NOW, 7),
        Record(
            b"acme",
            b'{"id":"a","delay_ms":0,"payload":1,"headers":{%s}}'
            % b",".join(b'"%x":""' % number for number in range(80_000)),
            [],
            NOW,
        ),
    ],
    ids=["header mode", "envelope"],
)
def test_headers_count_with_what_is_kept_beside_them(record: Record) -> None:
    """Many headers without a value fill a record, too; kept, it would be too large to write."""
    decoded = decode(record, NOW)
    assert isinstance(decoded, Rejection)
    assert decoded.reason is Reason.TOO_LARGE


@pytest.mark.parametrize("value", [b"{}", b'{"id":"a","delay_ms":0,"payload":1}', None])
def test_record_whose_header_names_are_no_text_is_refused(value: bytes | None) -> None:
    """Whatever else is in it: its headers could not be passed on."""
    decoded = decode(Record(b"acme", value, None, NOW, 7), NOW)
    assert isinstance(decoded, Rejection)
    assert decoded.reason is Reason.HEADER_NOT_UTF8


def test_moved_job_may_have_grown_by_its_marks() -> None:
    """A job of exactly the limit is still accepted after it was moved."""
    names = TopicNames()
    body = b'"' + b"x" * (JOB_BYTES_MAX - 100) + b'"'
    value = b'{"id":"a","payload":' + body + b',"due_at":%d}' % NOW
    value += b" " * (JOB_BYTES_MAX - len(value) - len(b"acme"))
    record = Record(b"acme", value, [], NOW, 7)
    assert record_bytes(record) == JOB_BYTES_MAX
    command = decode(record, NOW)
    assert isinstance(command, Schedule)
    moved = outbox.moved(names, record, command, 2, 3, "1-7")
    again = decode(Record(moved.key, moved.value, moved.headers, moved.timestamp_ms, 9), NOW)
    assert again == msgspec.structs.replace(command, moved=Moved(3, 1, 7))


def test_moved_record_reads_as_before() -> None:
    """Moving keeps all of a command: times absolute, key, headers, expiry, and a cancel."""
    names = TopicNames()
    value = envelope(due_at="-", delay_ms="5", key='"k"', expires_at=str(NOW + 9), tenant='"t"')
    for record in (
        Record(b"t", value, [("own", b"\xff")], NOW, 7),
        Record(b"t", None, [ID], NOW, 7),
    ):
        command = decode(record, NOW)
        assert not isinstance(command, Rejection)
        moved = outbox.moved(names, record, command, 2, 3, "1-7")
        again = decode(Record(moved.key, moved.value, moved.headers, -1, 9), NOW + 99_999)
        assert not isinstance(again, Rejection)
        assert msgspec.structs.replace(again, moved=None) == command
        assert again.moved == Moved(3, 1, 7)


def test_furthest_due_time() -> None:
    """Ten years ahead is accepted to the millisecond."""
    most = NOW + DUE_AHEAD_MS_MAX
    assert isinstance(read(envelope(due_at=str(most))), Schedule)
    refused = read(envelope(due_at=str(most + 1)))
    assert isinstance(refused, Rejection)
    assert refused.reason is Reason.TIME_TOO_FAR
