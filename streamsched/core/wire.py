"""Reading an ingress record: a command, or a rejection. Nothing else comes out, whatever comes in.

Header mode is used when the header `streamsched-id` is present: the value is opaque and passes
through. Otherwise the value is a JSON envelope, whose payload is passed on as it stood.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from streamsched.core import headers as names
from streamsched.core.limits import (
    ENVELOPE_DEPTH_MAX,
    JOB_BYTES_MAX,
    JOB_ID_BYTES_MAX,
    MOVED_MARKS_BYTES_MAX,
)
from streamsched.core.rejection import Reason, Rejection
from streamsched.core.state import Headers
from streamsched.core.tenant_settings import TENANT_PATTERN
from streamsched.core.times import (
    check_epoch_ms,
    due_after,
    parse_time,
    parse_time_text,
)

_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")
# A string that never ends is taken whole as well, without going back over it: a search that
# began again at each of its quotes would take hours for one record.
_JSON_TOKEN: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+["\\]?|[\[\]{}]', re.DOTALL)
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_DIGITS: Final = re.compile(r"-?\d{1,18}", re.ASCII)
_SOURCE: Final = re.compile(r"(\d{1,9})-(\d{1,18})", re.ASCII)

TENANTS_REMEMBERED_MAX: Final = 65_536
"""Tenants that were checked already and are not checked again."""

OP_SCHEDULE: Final = "schedule"
OP_CANCEL: Final = "cancel"


class IngressRecord(Protocol):
    """What the core reads of a Kafka record; `timestamp` in ms, -1 or None where there is none."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int | None: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...


class Schedule(NamedTuple):
    """A job to hold until `due_ms`."""

    tenant: str
    job_id: bytes
    due_ms: int
    expires_ms: int
    """0 is never."""
    key: bytes | None
    """The egress record's key; `None` stands for the id."""
    headers: Headers
    payload: bytes
    moved: "Moved | None" = None


class Cancel(NamedTuple):
    """A pending job to drop."""

    tenant: str
    job_id: bytes
    moved: "Moved | None" = None


class Moved(NamedTuple):
    """The mark of a record that was moved to the partition of its tenant."""

    partitions: int
    """The number of ingress partitions that the move was computed with."""
    source_partition: int
    source_offset: int


Command = Schedule | Cancel


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    id: str | msgspec.UnsetType = msgspec.UNSET
    tenant: str | msgspec.UnsetType = msgspec.UNSET
    due_at: int | str | msgspec.UnsetType = msgspec.UNSET
    delay_ms: int | msgspec.UnsetType = msgspec.UNSET
    payload: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    key: str | msgspec.UnsetType = msgspec.UNSET
    headers: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    expires_at: int | str | msgspec.UnsetType = msgspec.UNSET
    op: str | msgspec.UnsetType = msgspec.UNSET


_UNSET: Final = msgspec.UNSET
_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_FIELDS: Final = frozenset(_Envelope.__struct_fields__)


def record_bytes(record: IngressRecord) -> int:
    """Size of key, value and headers together, uncompressed."""
    size = len(record.key or b"") + len(record.value or b"")
    for name, value in record.headers:
        size += len(name.encode()) + len(value or b"")
    return size


def decode(record: IngressRecord, now_ms: int) -> Command | Rejection:
    """Read one ingress record."""
    value = record.value
    given = record.headers
    size = len(value or b"") + len(record.key or b"")
    if given:
        size = record_bytes(record)
    if size > JOB_BYTES_MAX and size > _bytes_max(given):
        return Rejection(
            Reason.TOO_LARGE,
            f"{size} bytes of key, value and headers, the limit is {JOB_BYTES_MAX}",
        )
    for name, _ in given:
        if name.startswith(names.PREFIX):
            return _decode_header_mode(record, now_ms)
    if value is None:
        return Rejection(Reason.MISSING_ID, "a null value without the header streamsched-id")
    return _decode_envelope_mode(record, value, now_ms)


def _bytes_max(given: Headers) -> int:
    """The limit of a record: one that was moved has grown by the marks of its move."""
    is_moved = any(name == names.MOVED for name, _ in given)
    return JOB_BYTES_MAX + (MOVED_MARKS_BYTES_MAX if is_moved else 0)


# --- envelope mode -------------------------------------------------------------------------


def _decode_envelope_mode(record: IngressRecord, value: bytes, now_ms: int) -> Command | Rejection:
    if not value.isascii():
        try:
            value.decode()
        except UnicodeDecodeError as error:
            return Rejection(Reason.NOT_UTF8, f"the value is no UTF-8 at byte {error.start}")
    # A short value, or one with few brackets, cannot be deep: the exact count is for the others.
    if (
        len(value) > ENVELOPE_DEPTH_MAX
        and value.count(b"[") + value.count(b"{") > ENVELOPE_DEPTH_MAX
        and _too_deep(value)
    ):
        return Rejection(Reason.TOO_DEEP, f"nested deeper than {ENVELOPE_DEPTH_MAX} levels")
    try:
        envelope = _decode_envelope(value)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        return _explain(value, error)
    job_id = envelope.id
    if job_id is _UNSET:
        return Rejection(Reason.MISSING_ID, "the envelope has no id")
    raw_id = _encode_id(job_id)
    if isinstance(raw_id, Rejection):
        return raw_id
    tenant: Any = envelope.tenant
    if tenant is _UNSET:
        tenant = _tenant_of_key(record.key)
    else:
        tenant = _check_tenant(tenant)
    if isinstance(tenant, Rejection):
        return tenant
    if envelope.op is not _UNSET and envelope.op != OP_SCHEDULE:
        if envelope.op == OP_CANCEL:
            return Cancel(tenant, raw_id)
        return Rejection(Reason.ILLEGAL_OP, f"op {envelope.op[:40]!r} is no schedule or cancel")
    return _schedule_of_envelope(record, envelope, tenant, raw_id, now_ms)


def _schedule_of_envelope(
    record: IngressRecord, envelope: _Envelope, tenant: str, raw_id: bytes, now_ms: int
) -> Command | Rejection:
    due = envelope.due_at
    due_ms: int | Rejection
    if isinstance(due, msgspec.UnsetType):
        if isinstance(envelope.delay_ms, msgspec.UnsetType):
            return Rejection(Reason.MISSING_DUE, "neither due_at nor delay_ms")
        timestamp = -1 if record.timestamp is None else record.timestamp
        due_ms = due_after(envelope.delay_ms, timestamp, now_ms, "delay_ms")
    elif envelope.delay_ms is not _UNSET:
        return Rejection(Reason.TWO_DUES, "both due_at and delay_ms")
    elif isinstance(due, int):
        due_ms = check_epoch_ms(due, now_ms, "due_at")
    else:
        due_ms = parse_time(due, now_ms, "due_at", round_up=True)
    if not isinstance(due_ms, int):
        return due_ms
    expires_ms: int | Rejection = 0
    expires = envelope.expires_at
    if not isinstance(expires, msgspec.UnsetType):
        if isinstance(expires, int):
            expires_ms = check_epoch_ms(expires, now_ms, "expires_at")
        else:
            expires_ms = parse_time(expires, now_ms, "expires_at", round_up=False)
    if not isinstance(expires_ms, int):
        return expires_ms
    if envelope.payload is _UNSET:
        return Rejection(Reason.MISSING_PAYLOAD, "the envelope has no payload")
    key = None if envelope.key is _UNSET else envelope.key.encode()
    passed: Headers = record.headers
    if envelope.headers is not _UNSET:
        added = [(name, text.encode()) for name, text in envelope.headers.items()]
        for name, _ in added:
            if name.startswith(names.PREFIX):
                return Rejection(
                    Reason.ILLEGAL_HEADERS, f"header {name[:80]!r} is ours to set, not a job's"
                )
        passed = [*passed, *added]
    return Schedule(tenant, raw_id, due_ms, expires_ms, key, passed, bytes(envelope.payload))


def _too_deep(value: bytes) -> bool:
    depth = 0
    for match in _JSON_TOKEN.finditer(value):
        token = value[match.start()]
        if token in b"[{":
            depth += 1
            if depth > ENVELOPE_DEPTH_MAX:
                return True
        elif token in b"]}":
            depth -= 1
    return False


_TYPE_FAULTS: Final = {
    "id": Reason.ILLEGAL_ID,
    "tenant": Reason.ILLEGAL_TENANT,
    "due_at": Reason.WRONG_TYPE,
    "delay_ms": Reason.ILLEGAL_DELAY,
    "key": Reason.ILLEGAL_KEY,
    "headers": Reason.ILLEGAL_HEADERS,
    "expires_at": Reason.WRONG_TYPE,
    "op": Reason.ILLEGAL_OP,
}


def _explain(value: bytes, error: Exception) -> Rejection:
    """Turn a failed decoding into the reason that a person can act on."""
    if isinstance(error, RecursionError):
        return Rejection(Reason.TOO_DEEP, f"nested deeper than {ENVELOPE_DEPTH_MAX} levels")
    if not isinstance(error, msgspec.ValidationError):
        return _not_json(value, error)
    try:
        fields = msgspec.json.decode(value, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        return Rejection(Reason.NOT_AN_OBJECT, "the value is JSON, but no object")
    except (msgspec.DecodeError, UnicodeDecodeError) as again:
        return _not_json(value, again)
    unknown = sorted(set(fields) - _FIELDS)
    if unknown:
        return Rejection(
            Reason.UNKNOWN_FIELD,
            f"unknown field {unknown[0][:80]!r}; known: {', '.join(sorted(_FIELDS))}",
        )
    for name, reason in _TYPE_FAULTS.items():
        if f"$.{name}" in str(error):
            return Rejection(reason, f"{name}: {error}")
    return Rejection(Reason.WRONG_TYPE, str(error))


def _not_json(value: bytes, error: Exception) -> Rejection:
    hint = ""
    if _SURROGATE.search(value):
        hint = "; an escaped surrogate that has no partner is no character"
    return Rejection(Reason.NOT_JSON, f"the value is no JSON: {error}{hint}")


# --- header mode ---------------------------------------------------------------------------


def _decode_header_mode(record: IngressRecord, now_ms: int) -> Command | Rejection:
    split = _split_headers(record.headers)
    if isinstance(split, Rejection):
        return split
    ours, passed = split
    text_id = ours.get(names.ID)
    if text_id is None:
        present = ", ".join(sorted(ours))
        return Rejection(Reason.MISSING_ID, f"{present} without {names.ID}")
    job_id = _encode_id(text_id)
    if isinstance(job_id, Rejection):
        return job_id
    tenant = (
        _check_tenant(ours[names.TENANT]) if names.TENANT in ours else _tenant_of_key(record.key)
    )
    if isinstance(tenant, Rejection):
        return tenant
    moved = _moved(ours)
    if isinstance(moved, Rejection):
        return moved
    op = ours.get(names.OP)
    if op == OP_CANCEL or (op is None and record.value is None):
        return Cancel(tenant, job_id, moved)
    if op not in (None, OP_SCHEDULE):
        return Rejection(Reason.ILLEGAL_OP, f"{names.OP} {op[:40]!r} is no schedule or cancel")
    if record.value is None:
        return Rejection(Reason.MISSING_PAYLOAD, "a null value with op schedule")
    due_ms = _due_of_headers(ours, record.timestamp, now_ms)
    if not isinstance(due_ms, int):
        return due_ms
    expires_ms: int | Rejection = 0
    if names.EXPIRES_AT in ours:
        expires_ms = parse_time_text(
            ours[names.EXPIRES_AT], now_ms, names.EXPIRES_AT, round_up=False
        )
    if not isinstance(expires_ms, int):
        return expires_ms
    key = ours.get(names.KEY)
    return Schedule(
        tenant,
        job_id,
        due_ms,
        expires_ms,
        None if key is None else key.encode(),
        passed,
        record.value,
        moved,
    )


def _split_headers(given: Headers) -> tuple[dict[str, str], Headers] | Rejection:
    """Our headers as text, and everybody else's in their order."""
    ours: dict[str, str] = {}
    passed: list[tuple[str, bytes | None]] = []
    for header in given:
        name, value = header
        if not name.startswith(names.PREFIX):
            passed.append(header)
            continue
        if name not in names.INGRESS and name not in (names.MOVED, names.SOURCE):
            return Rejection(
                Reason.UNKNOWN_HEADER,
                f"header {name[:80]!r} is no ingress header; a dispatched record that is "
                "submitted again must be stripped of ours",
            )
        if name in ours:
            return Rejection(Reason.DUPLICATE_HEADER, f"header {name} stands twice")
        if value is None:
            return Rejection(Reason.HEADER_NOT_UTF8, f"header {name} is null")
        try:
            ours[name] = value.decode()
        except UnicodeDecodeError as error:
            return Rejection(
                Reason.HEADER_NOT_UTF8, f"header {name} is no UTF-8 at byte {error.start}"
            )
    return ours, passed


def _due_of_headers(ours: dict[str, str], timestamp_ms: int | None, now_ms: int) -> int | Rejection:
    due = ours.get(names.DUE_AT)
    delay = ours.get(names.DELAY_MS)
    if due is not None and delay is not None:
        return Rejection(Reason.TWO_DUES, f"both {names.DUE_AT} and {names.DELAY_MS}")
    if due is not None:
        return parse_time_text(due, now_ms, names.DUE_AT, round_up=True)
    if delay is None:
        return Rejection(Reason.MISSING_DUE, f"neither {names.DUE_AT} nor {names.DELAY_MS}")
    if not _DIGITS.fullmatch(delay):
        return Rejection(
            Reason.ILLEGAL_DELAY, f"{names.DELAY_MS} {delay[:40]!r} is no whole number of ms"
        )
    timestamp = -1 if timestamp_ms is None else timestamp_ms
    return due_after(int(delay), timestamp, now_ms, names.DELAY_MS)


def _moved(ours: dict[str, str]) -> Moved | Rejection | None:
    """The mark of a moved record. Its two headers only ever come together."""
    mark = ours.get(names.MOVED)
    source = ours.get(names.SOURCE)
    if mark is None and source is None:
        return None
    match = _SOURCE.fullmatch(source or "")
    if mark is None or match is None or not _DIGITS.fullmatch(mark):
        return Rejection(
            Reason.UNKNOWN_HEADER,
            f"{names.MOVED} and {names.SOURCE} are set by the scheduler alone",
        )
    return Moved(int(mark), int(match[1]), int(match[2]))


# --- both ----------------------------------------------------------------------------------


def _encode_id(text: str) -> bytes | Rejection:
    raw = text.encode()
    if not 1 <= len(raw) <= JOB_ID_BYTES_MAX:
        return Rejection(
            Reason.ILLEGAL_ID, f"an id of {len(raw)} bytes; 1 to {JOB_ID_BYTES_MAX} are allowed"
        )
    if not (raw.isascii() and text.isprintable()) and _CONTROL.search(text):
        return Rejection(Reason.ILLEGAL_ID, f"control characters in id {text[:60]!r}")
    return raw


@lru_cache(TENANTS_REMEMBERED_MAX)
def _check_tenant(text: str) -> str | Rejection:
    if not TENANT_PATTERN.fullmatch(text.encode()):
        return Rejection(
            Reason.ILLEGAL_TENANT,
            f"tenant {text[:110]!r} is not 1 to 100 of A-Z a-z 0-9 _ -",
        )
    return text


@lru_cache(TENANTS_REMEMBERED_MAX)
def _tenant_of_key(key: bytes | None) -> str | Rejection:
    if key is None:
        return Rejection(Reason.MISSING_TENANT, "no tenant, and the record has no key")
    if not TENANT_PATTERN.fullmatch(key):
        return Rejection(
            Reason.ILLEGAL_TENANT,
            f"no tenant, and the record's key {key[:110]!r} is none: 1 to 100 of A-Z a-z 0-9 _ -",
        )
    return key.decode()
