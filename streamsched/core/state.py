r"""Byte layouts of a partition's state, in its store and in its changelog.

Every value opens with a version byte. Integers are big-endian, so that bytes sort as numbers.
A tenant is ASCII without NUL and an id has no control characters, so NUL separates them.

    family  key                                             value
    jobs    tenant NUL id                                   job row, below
    due     second(5) tenant NUL ms(2) sequence(8)          version kind(1) id
    ready   tenant NUL due_ms(8) sequence(8)                version id
    meta    0x01 'o'                                        version next_offset(8) now_ms(8)
                                                            topic id
    meta    0x01 'l' tenant                                 version count(8) period_ms(8) burst(4)
                                                            at_ticks(16)
                                                            (all 0: seen, and unlimited)
    meta    0x01 's' tenant                                 version offset(8) settings as JSON
                                                            (-1: of a former settings topic)
    meta    0x01 'i'                                        version id of the settings topic
    meta    0x02 'c'                                        version second(5): the sweep's cursor
    meta    0x02 'n'                                        version now_ms(8)
    meta    0x02 'a'                                        version now_ms(8): the wall clock when
                                                            the state last was as new as the log
    meta    0x02 't' tenant                                 version pending(8) ready(8) head, below
    meta    0x02 'g'                                        version next changelog offset(8)
                                                            topic id

    job row: version due_ms(8) sequence(8) expires_ms(8) accepted_ms(8) source_offset(8)
             source_partition(4) key_length(4) headers_length(4) headers key payload
    head:    due_ms(8) sequence(8), a lower bound of the tenant's first row in ready
    header:  name_length(4) name value_length(4) value

`expires_ms` is 0 for "never". A length of 0xFFFFFFFF means null (no value, or no key of its own).
Rows of `jobs` and meta keys that open with 0x01 are in the changelog under the same key and
value; everything else is derived from them or local.
"""

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from streamsched.core.rate import Rate

VERSION: Final = 1
_V: Final = bytes([VERSION])

NUL: Final = b"\x00"
AFTER_NUL: Final = b"\x01"
NO_LENGTH: Final = 0xFFFFFFFF

POSITION_KEY: Final = b"\x01o"
LIMITER_PREFIX: Final = b"\x01l"
SETTINGS_PREFIX: Final = b"\x01s"
SETTINGS_TOPIC_KEY: Final = b"\x01i"
CURSOR_KEY: Final = b"\x02c"
NOW_KEY: Final = b"\x02n"
CURRENT_KEY: Final = b"\x02a"
TENANT_PREFIX: Final = b"\x02t"
CHANGELOG_KEY: Final = b"\x02g"

KIND_DUE: Final = 0
KIND_EXPIRY: Final = 1
_DUE_VALUE_HEAD: Final = bytes([VERSION, KIND_DUE])
_EXPIRY_VALUE_HEAD: Final = bytes([VERSION, KIND_EXPIRY])

_JOB_HEAD: Final = struct.Struct(">BqQqqQIII")
JOB_HEAD_BYTES: Final = _JOB_HEAD.size
_DUE_TAIL: Final = struct.Struct(">HQ")
_READY_TAIL: Final = struct.Struct(">QQ")
_POSITION: Final = struct.Struct(">BQq")
_LIMITER: Final = struct.Struct(">BQQI")
_TENANT: Final = struct.Struct(">BQQQQ")
_OFFSET: Final = struct.Struct(">Bq")
_NOW: Final = struct.Struct(">Bq")
_LENGTH: Final = struct.Struct(">I")

_UNLIMITED: Final = Rate(0, 0)

Headers = Sequence[tuple[str, bytes | None]]


class UnknownVersion(Exception):
    """State was written by a newer streamsched; the text names the value and both versions."""


def _check(value: bytes, what: str) -> None:
    if not value or value[0] != VERSION:
        found = value[0] if value else "nothing"
        raise UnknownVersion(
            f"{what} has format version {found}, this streamsched knows {VERSION}: "
            "run the version that wrote it, or a newer one"
        )


# --- jobs ----------------------------------------------------------------------------------


class JobRow(msgspec.Struct, frozen=True, gc=False):
    """A pending job."""

    due_ms: int
    sequence: int
    """Offset of the job's record on the ingress partition that owns its tenant."""
    expires_ms: int
    accepted_ms: int
    source_offset: int
    source_partition: int
    key: bytes | None
    headers: Headers
    payload: bytes


def encode_headers(headers: Headers) -> bytes:
    """Pack headers in order, repeated ones included."""
    parts: list[bytes] = []
    for name, value in headers:
        raw = name.encode()
        parts.append(_LENGTH.pack(len(raw)))
        parts.append(raw)
        if value is None:
            parts.append(_LENGTH.pack(NO_LENGTH))
        else:
            parts.append(_LENGTH.pack(len(value)))
            parts.append(value)
    return b"".join(parts)


def decode_headers(packed: bytes) -> list[tuple[str, bytes | None]]:
    """Unpack what `encode_headers` packed."""
    headers: list[tuple[str, bytes | None]] = []
    at = 0
    while at < len(packed):
        (length,) = _LENGTH.unpack_from(packed, at)
        at += 4
        name = packed[at : at + length].decode()
        at += length
        (length,) = _LENGTH.unpack_from(packed, at)
        at += 4
        if length == NO_LENGTH:
            headers.append((name, None))
        else:
            headers.append((name, packed[at : at + length]))
            at += length
    return headers


def encode_job(
    due_ms: int,
    sequence: int,
    expires_ms: int,
    accepted_ms: int,
    source_offset: int,
    source_partition: int,
    key: bytes | None,
    headers: Headers,
    payload: bytes,
) -> bytes:
    """The row of one job."""
    packed = encode_headers(headers) if headers else b""
    head = _JOB_HEAD.pack(
        VERSION,
        due_ms,
        sequence,
        expires_ms,
        accepted_ms,
        source_offset,
        source_partition,
        NO_LENGTH if key is None else len(key),
        len(packed),
    )
    if key is None:
        return head + packed + payload if packed else head + payload
    return b"".join((head, packed, key, payload))


def decode_job(row: bytes) -> JobRow:
    """Read a job row. Raises `UnknownVersion`."""
    if row[0] != VERSION:
        _check(row, "a job")
    (_, due, seq, expires, accepted, offset, partition, key_length, headers_length) = (
        _JOB_HEAD.unpack_from(row)
    )
    at = JOB_HEAD_BYTES
    headers: Headers = ()
    if headers_length:
        headers = decode_headers(row[at : at + headers_length])
        at += headers_length
    key = None
    if key_length != NO_LENGTH:
        key = row[at : at + key_length]
        at += key_length
    return JobRow(due, seq, expires, accepted, offset, partition, key, headers, row[at:])


def job_times(row: bytes) -> tuple[int, int, int]:
    """Due time, sequence and expiry of a job row, without the rest."""
    if row[0] != VERSION:
        _check(row, "a job")
    head = _JOB_HEAD.unpack_from(row)
    return head[1], head[2], head[3]


def job_key(tenant: bytes, job_id: bytes) -> bytes:
    """Key of a job in `jobs` and in the changelog."""
    return tenant + NUL + job_id


def split_job_key(key: bytes) -> tuple[bytes, bytes]:
    """Tenant and id of a job key."""
    tenant, _, job_id = key.partition(NUL)
    return tenant, job_id


# --- due and ready -------------------------------------------------------------------------


def second_key(second: int) -> bytes:
    """Lower bound in `due` of everything that is due in `second` or later."""
    return second.to_bytes(5, "big")


def due_key(due_ms: int, tenant: bytes, sequence: int) -> bytes:
    """Key in `due`."""
    second, ms = divmod(due_ms, 1000)
    return second.to_bytes(5, "big") + tenant + NUL + _DUE_TAIL.pack(ms, sequence)


def split_due_key(key: bytes) -> tuple[bytes, int, int]:
    """Tenant, due_ms and sequence of a key in `due`."""
    ms, sequence = split_due_tail(key)
    return key[5:-11], int.from_bytes(key[:5], "big") * 1000 + ms, sequence


def split_due_tail(key: bytes) -> tuple[int, int]:
    """Milliseconds within its second, and sequence, of a key in `due`."""
    ms, sequence = _DUE_TAIL.unpack_from(key, len(key) - 10)
    return ms, sequence


def after_group(key: bytes) -> bytes:
    """Lower bound of the first key in `due` of a later tenant or second than `key`'s."""
    return key[:-11] + AFTER_NUL


def due_value(job_id: bytes) -> bytes:
    """Value in `due` of a job's due moment."""
    return _DUE_VALUE_HEAD + job_id


def expiry_value(job_id: bytes) -> bytes:
    """Value in `due` of a job's expiry."""
    return _EXPIRY_VALUE_HEAD + job_id


def split_due_value(value: bytes) -> tuple[int, bytes]:
    """Kind and id of a value in `due`. Raises `UnknownVersion`."""
    if value[0] != VERSION:
        _check(value, "a due row")
    return value[1], value[2:]


def ready_key(tenant: bytes, due_ms: int, sequence: int) -> bytes:
    """Key in `ready`."""
    return tenant + NUL + _READY_TAIL.pack(due_ms, sequence)


def split_ready_key(key: bytes) -> tuple[int, int]:
    """due_ms and sequence of a key in `ready`."""
    due_ms, sequence = _READY_TAIL.unpack_from(key, len(key) - 16)
    return due_ms, sequence


def ready_value(job_id: bytes) -> bytes:
    """Value in `ready`."""
    return _V + job_id


def split_ready_value(value: bytes) -> bytes:
    """Id of a value in `ready`. Raises `UnknownVersion`."""
    if value[0] != VERSION:
        _check(value, "a ready row")
    return value[1:]


# --- meta ----------------------------------------------------------------------------------


class Position(NamedTuple):
    """How far a partition has come."""

    next_offset: int
    """The next offset to read on the ingress partition."""
    now_ms: int
    """`now` of the last cycle that was committed."""
    topic_id: str
    """Kafka's id of the ingress topic, by which a topic made anew is recognised."""


def encode_position(position: Position) -> bytes:
    """Value of `POSITION_KEY`."""
    head = _POSITION.pack(VERSION, position.next_offset, position.now_ms)
    return head + position.topic_id.encode()


def decode_position(value: bytes) -> Position:
    """Read the value of `POSITION_KEY`. Raises `UnknownVersion`."""
    _check(value, "the position")
    _, next_offset, now_ms = _POSITION.unpack_from(value)
    return Position(next_offset, now_ms, value[_POSITION.size :].decode())


def encode_limiter(pace: tuple[Rate, int] | None, at_ticks: int) -> bytes:
    """A tenant's limiter state: the rate and burst it is counted in, and its theoretical time.

    `None` is unlimited: all that is kept then is that the tenant was seen.
    """
    rate, burst = pace or (_UNLIMITED, 0)
    return _LIMITER.pack(VERSION, rate.count, rate.period_ms, burst) + at_ticks.to_bytes(
        16, "big", signed=True
    )


def decode_limiter(value: bytes) -> tuple[tuple[Rate, int] | None, int]:
    """Rate and burst, `None` for unlimited, and theoretical time in ticks.

    Raises `UnknownVersion`.
    """
    _check(value, "a limiter's state")
    _, count, period_ms, burst = _LIMITER.unpack_from(value)
    pace = (Rate(count, period_ms), burst) if count else None
    return pace, int.from_bytes(value[_LIMITER.size :], "big", signed=True)


def encode_own_settings(offset: int, record: bytes) -> bytes:
    """A tenant's last valid settings record with its offset."""
    return _OFFSET.pack(VERSION, offset) + record


def decode_own_settings(value: bytes) -> tuple[int, bytes]:
    """Offset and record. Raises `UnknownVersion`."""
    _check(value, "a settings record in the state")
    return _OFFSET.unpack_from(value)[1], value[_OFFSET.size :]


def encode_settings_topic(topic_id: str) -> bytes:
    """Value of `SETTINGS_TOPIC_KEY`."""
    return _V + topic_id.encode()


def decode_settings_topic(value: bytes) -> str:
    """The id of the settings topic that offsets refer to. Raises `UnknownVersion`."""
    _check(value, "the id of the settings topic")
    return value[1:].decode()


def encode_cursor(second: int) -> bytes:
    """Value of `CURSOR_KEY`."""
    return _V + second.to_bytes(5, "big")


def decode_cursor(value: bytes) -> int:
    """The due second below which `due` is empty. Raises `UnknownVersion`."""
    _check(value, "the sweep's cursor")
    return int.from_bytes(value[1:], "big")


def encode_now(now_ms: int) -> bytes:
    """Value of `NOW_KEY` and of `CURRENT_KEY`."""
    return _NOW.pack(VERSION, now_ms)


def decode_now(value: bytes) -> int:
    """A moment: of `NOW_KEY`, the last cycle that changed the store without a transaction.

    Raises `UnknownVersion`.
    """
    _check(value, "the time of the last cycle")
    now_ms: int = _NOW.unpack(value)[1]
    return now_ms


def encode_tenant(pending: int, ready: int, head: tuple[int, int]) -> bytes:
    """A tenant's counts, and a lower bound of its first row in `ready`."""
    return _TENANT.pack(VERSION, pending, ready, *head)


def decode_tenant(value: bytes) -> tuple[int, int, tuple[int, int]]:
    """Pending, ready, head. Raises `UnknownVersion`."""
    _check(value, "a tenant's counts")
    _, pending, ready, due_ms, sequence = _TENANT.unpack(value)
    return pending, ready, (due_ms, sequence)


def encode_changelog_offset(next_offset: int, topic_id: str) -> bytes:
    """Value of `CHANGELOG_KEY`."""
    return _OFFSET.pack(VERSION, next_offset) + topic_id.encode()


def decode_changelog_offset(value: bytes) -> tuple[int, str]:
    """The next changelog offset to read, and the id of that topic. Raises `UnknownVersion`."""
    _check(value, "the changelog offset")
    return _OFFSET.unpack_from(value)[1], value[_OFFSET.size :].decode()
