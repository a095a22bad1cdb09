"""Jobs and cancels as records of the ingress topic, in header mode.

What a producer can get wrong is refused here, before anything is sent, by the rules that ingest
applies: a record built here is never rejected for its form.
"""

import math
import secrets
import time
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

import orjson

from streamsched.core import headers as h
from streamsched.core.limits import (
    DUE_AHEAD_MS_MAX,
    EPOCH_MS_MIN,
    JOB_BYTES_MAX,
    JOB_ID_BYTES_MAX,
    TENANT_LENGTH_MAX,
)
from streamsched.core.names import TopicNames
from streamsched.core.tenant_settings import TENANT_PATTERN
from streamsched.core.wire import record_bytes

Header = tuple[str, bytes | None]
Headers = Mapping[str, str | bytes | None] | Iterable[tuple[str, str | bytes | None]]
Moment = datetime | int
"""A datetime with an offset, or epoch milliseconds."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class Record(NamedTuple):
    """A record ready to be produced, and whom to name when it cannot be delivered."""

    topic: str
    key: bytes
    value: bytes | None
    headers: list[Header]
    tenant: str
    id: str | None


class Submitted(NamedTuple):
    """Where the broker stored a job or a cancel; it is acknowledged by all in-sync replicas."""

    tenant: str
    id: str
    partition: int
    offset: int


def now_ms() -> int:
    """The wall clock in epoch milliseconds."""
    return time.time_ns() // 1_000_000


def new_job_id() -> str:
    """A fresh job id: 32 hexadecimal digits, opening with the time as UUID version 7 does.

    Ids that grow with time keep neighbours together in the scheduler's store.
    """
    random = secrets.randbits(74)
    number = (now_ms() & 0xFFFFFFFFFFFF) << 80
    number |= 0x7 << 76 | (random >> 62) << 64 | 0b10 << 62 | random & (1 << 62) - 1
    return f"{number:032x}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job to submit. Give exactly one of `due_at` and `delay`.

    `payload`: bytes reach the worker untouched; anything else is encoded as JSON.
    `due_at`, `expires_at`: a datetime with an offset, or epoch milliseconds. Fractions of a
    millisecond round up for due and down for expiry.
    `delay`: counts from the moment the record is produced.
    `key`: the egress record's key; jobs with equal keys share an egress partition.
    `headers`: your own; a list of pairs may repeat a name. `streamsched-…` is reserved.
    """

    tenant: str
    payload: object
    id: str = field(default_factory=new_job_id)
    due_at: Moment | None = None
    delay: timedelta | None = None
    expires_at: Moment | None = None
    key: str | None = None
    headers: Headers | None = None


def job_record(job: Job, names: TopicNames, at_ms: int) -> Record:
    """The ingress record of `job`. Raises `ValueError` with one sentence."""
    record_key = tenant_key(job.tenant)
    ours: list[Header] = [(h.ID, encoded_id(job.id))]
    if (job.due_at is None) == (job.delay is None):
        raise ValueError(f"job {job.id!r}: give exactly one of due_at and delay")
    if job.due_at is not None:
        ours.append((h.DUE_AT, b"%d" % epoch_ms(job.due_at, "due_at", at_ms, round_up=True)))
    else:
        assert job.delay is not None
        ours.append((h.DELAY_MS, b"%d" % _delay_ms(job.delay)))
    if job.expires_at is not None:
        expires = epoch_ms(job.expires_at, "expires_at", at_ms, round_up=False)
        ours.append((h.EXPIRES_AT, b"%d" % expires))
    if job.key is not None:
        ours.append((h.KEY, _utf8(job.key, "key")))
    record = Record(
        topic=names.ingress(job.tenant),
        key=record_key,
        value=encoded_payload(job.payload),
        headers=[*own_headers(job.headers), *ours],
        tenant=job.tenant,
        id=job.id,
    )
    size_bytes = record_bytes(record)
    if size_bytes > JOB_BYTES_MAX:
        raise ValueError(
            f"job {job.id!r} has {size_bytes} bytes with its key and headers, and at most "
            f"{JOB_BYTES_MAX} are allowed; put the body elsewhere and send a reference to it"
        )
    return record


def cancel_record(tenant: str, job_id: str, names: TopicNames) -> Record:
    """The ingress record that cancels a pending job. Raises `ValueError`."""
    headers: list[Header] = [(h.ID, encoded_id(job_id)), (h.OP, b"cancel")]
    key = tenant_key(tenant)
    return Record(names.ingress(tenant), key, None, headers, tenant, job_id)


def tenant_key(tenant: str) -> bytes:
    """The record key of a tenant. Raises `ValueError` where it is no legal tenant."""
    if TENANT_PATTERN.fullmatch(_utf8(tenant, "tenant")):
        return tenant.encode()
    raise ValueError(
        f"tenant {tenant!r} is not legal: use 1 to {TENANT_LENGTH_MAX} of A-Z a-z 0-9 _ -"
    )


def encoded_id(job_id: str) -> bytes:
    """A job id as header bytes. Raises `ValueError` where it is no legal id."""
    encoded = _utf8(job_id, "id")
    if not 1 <= len(encoded) <= JOB_ID_BYTES_MAX:
        raise ValueError(
            f"id {job_id[:40]!r} has {len(encoded)} bytes of UTF-8: use 1 to {JOB_ID_BYTES_MAX}"
        )
    if not (job_id.isascii() and job_id.isprintable()) and any(
        unicodedata.category(character) == "Cc" for character in job_id
    ):
        raise ValueError(f"id {job_id!r} holds a control character: remove it")
    return encoded


def epoch_ms(moment: Moment, name: str, from_ms: int, *, round_up: bool) -> int:
    """Epoch milliseconds of `moment`. Raises `ValueError` where it could only be guessed."""
    if isinstance(moment, datetime):
        if moment.utcoffset() is None:
            raise ValueError(
                f"{name} {moment.isoformat()} has no offset: give it a tzinfo, such as UTC"
            )
        microseconds = (moment - _EPOCH) // _MICROSECOND
        at_ms = -(-microseconds // 1_000) if round_up else microseconds // 1_000
    elif type(moment) is int:
        at_ms = moment
    else:
        raise ValueError(
            f"{name} is a {type(moment).__name__}: give a datetime with an offset or an integer "
            "of epoch milliseconds"
        )
    if at_ms < EPOCH_MS_MIN:
        raise ValueError(
            f"{name} {at_ms} is before 1973 in epoch milliseconds: multiply seconds by 1000"
        )
    if at_ms > from_ms + DUE_AHEAD_MS_MAX:
        raise ValueError(
            f"{name} {at_ms} is more than ten years ahead: give epoch milliseconds, "
            "not microseconds"
        )
    return at_ms


def own_headers(headers: Headers | None) -> list[Header]:
    """The producer's headers in their order. Raises `ValueError` for one that is reserved."""
    if headers is None:
        return []
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    own: list[Header] = []
    for name, value in pairs:
        _utf8(name, "header name")
        if "\x00" in name:
            raise ValueError(
                f"header {name!r} holds a NUL: remove it, the client library would cut it there"
            )
        if name.startswith(h.PREFIX):
            raise ValueError(
                f"header {name!r} is reserved: names that start with {h.PREFIX} are "
                "streamsched's own; choose another, or use resubmit for a dispatched record"
            )
        if isinstance(value, str):
            own.append((name, _utf8(value, f"header {name!r}")))
        elif value is None or isinstance(value, bytes):
            own.append((name, value))
        else:
            raise ValueError(f"header {name!r} is a {type(value).__name__}: give str or bytes")
    return own


def encoded_payload(payload: object) -> bytes:
    """Bytes as they are, anything else as JSON. Raises `ValueError` where that is impossible."""
    if isinstance(payload, bytes | bytearray | memoryview):
        return bytes(payload)
    if payload is None:
        raise ValueError("the payload is missing: give bytes or a JSON value (b'null' for null)")
    try:
        encoded = orjson.dumps(payload)
    except TypeError as error:
        raise ValueError(f"the payload is no JSON value ({error}): give bytes instead") from error
    # It writes null for what JSON has no number for. A null is rare enough to look closer.
    if b"null" in encoded and _has_no_number(payload):
        raise ValueError("the payload has a number that JSON does not know (NaN or infinite)")
    return encoded


def _has_no_number(payload: object) -> bool:
    """Whether a float that is not finite stands anywhere in plain containers."""
    if isinstance(payload, float):
        return not math.isfinite(payload)
    if isinstance(payload, dict):
        return any(map(_has_no_number, payload.values()))
    return isinstance(payload, list | tuple) and any(map(_has_no_number, payload))


def _delay_ms(delay: timedelta) -> int:
    if not isinstance(delay, timedelta):
        raise ValueError(f"delay is a {type(delay).__name__}: give a timedelta")  # noqa: TRY004
    delay_ms = -(-(delay // _MICROSECOND) // 1_000)
    if not 0 <= delay_ms <= DUE_AHEAD_MS_MAX:
        raise ValueError(f"delay {delay} is out of range: give zero to ten years")
    return delay_ms


def _utf8(text: str, name: str) -> bytes:
    if not isinstance(text, str):
        raise ValueError(f"{name} is a {type(text).__name__}: give text")  # noqa: TRY004
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} {text!r} holds a lone surrogate: give valid Unicode") from error
