"""Envelope mode: the record's value is a JSON object, whose payload is passed on as it stood."""

import re
from typing import Final

import msgspec

from streamsched.core import headers as names
from streamsched.core.commands import (
    OP_CANCEL,
    OP_SCHEDULE,
    Cancel,
    Command,
    IngressRecord,
    Schedule,
    check_tenant,
    encode_id,
    tenant_of_key,
)
from streamsched.core.limits import DUE_AHEAD_MS_MAX, ENVELOPE_DEPTH_MAX, EPOCH_MS_MIN
from streamsched.core.rejection import Reason, Rejection
from streamsched.core.state import Headers
from streamsched.core.times import check_epoch_ms, due_after, parse_time

# A string that never ends is taken whole as well, without going back over it: a search that
# began again at each of its quotes would take hours for one record.
_JSON_TOKEN: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+["\\]?|[\[\]{}]', re.DOTALL)
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


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
_decode = msgspec.json.Decoder(_Envelope).decode
_FIELDS: Final = frozenset(_Envelope.__struct_fields__)


def decode_envelope(  # noqa: C901 - a straight way down, which is what makes it fast
    record: IngressRecord, value: bytes, now_ms: int
) -> Command | Rejection:
    """Read a record by its value; each check returns its own rejection."""
    if len(value) > ENVELOPE_DEPTH_MAX or not value.isascii():
        fault = _unreadable(value)
        if fault is not None:
            return fault
    try:
        envelope = _decode(value)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        return _explain(value, error)
    if envelope.id is _UNSET:
        return Rejection(Reason.MISSING_ID, "the envelope has no id")
    job_id = encode_id(envelope.id)
    if isinstance(job_id, Rejection):
        return job_id
    name = envelope.tenant
    tenant = tenant_of_key(record.key) if name is _UNSET else check_tenant(name)
    if isinstance(tenant, Rejection):
        return tenant
    if envelope.op is not _UNSET and envelope.op != OP_SCHEDULE:
        if envelope.op == OP_CANCEL:
            return Cancel(tenant, job_id)
        return Rejection(Reason.ILLEGAL_OP, f"op {envelope.op[:40]!r} is no schedule or cancel")
    due_ms = _due_of_envelope(envelope, record, now_ms)
    if not isinstance(due_ms, int):
        return due_ms
    expires_ms = 0 if envelope.expires_at is _UNSET else _expiry_of_envelope(envelope, now_ms)
    if not isinstance(expires_ms, int):
        return expires_ms
    if envelope.payload is _UNSET:
        return Rejection(Reason.MISSING_PAYLOAD, "the envelope has no payload")
    more = envelope.headers
    own = record.headers or []
    passed = own if more is _UNSET else _headers_of_envelope(own, more)
    if isinstance(passed, Rejection):
        return passed
    key = None if envelope.key is _UNSET else envelope.key.encode()
    return Schedule(tenant, job_id, due_ms, expires_ms, key, passed, bytes(envelope.payload))


def _unreadable(value: bytes) -> Rejection | None:
    """Why no JSON can be read from a value that is not short ASCII; `None` if it may be tried."""
    try:
        value.decode()
    except UnicodeDecodeError as error:
        return Rejection(Reason.NOT_UTF8, f"the value is no UTF-8 at byte {error.start}")
    # A value with few brackets cannot be deep, so the exact count is only made for the others.
    if value.count(b"[") + value.count(b"{") > ENVELOPE_DEPTH_MAX and _too_deep(value):
        return Rejection(Reason.TOO_DEEP, f"nested deeper than {ENVELOPE_DEPTH_MAX} levels")
    return None


def _due_of_envelope(envelope: _Envelope, record: IngressRecord, now_ms: int) -> int | Rejection:
    due, delay_ms = envelope.due_at, envelope.delay_ms
    if delay_ms is _UNSET:
        if isinstance(due, int):
            if EPOCH_MS_MIN <= due <= now_ms + DUE_AHEAD_MS_MAX:
                return due
            return check_epoch_ms(due, now_ms, "due_at")
        if isinstance(due, str):
            return parse_time(due, now_ms, "due_at", round_up=True)
        return Rejection(Reason.MISSING_DUE, "neither due_at nor delay_ms")
    if due is not _UNSET:
        return Rejection(Reason.TWO_DUES, "both due_at and delay_ms")
    timestamp_ms = -1 if record.timestamp is None else record.timestamp
    return due_after(delay_ms, timestamp_ms, now_ms, "delay_ms")


def _expiry_of_envelope(envelope: _Envelope, now_ms: int) -> int | Rejection:
    expires = envelope.expires_at
    if isinstance(expires, int):
        return check_epoch_ms(expires, now_ms, "expires_at")
    return parse_time(str(expires), now_ms, "expires_at", round_up=False)


def _headers_of_envelope(own: Headers, more: dict[str, str]) -> Headers | Rejection:
    """The record's own headers, then those of the envelope."""
    for name in more:
        if "\0" in name:
            # Kafka's clients written in C end the name there.
            return Rejection(Reason.ILLEGAL_HEADERS, f"header {name[:80]!r} has a NUL in its name")
        if name.startswith(names.PREFIX):
            return Rejection(
                Reason.ILLEGAL_HEADERS, f"header {name[:80]!r} is ours to set, not a job's"
            )
    return [*own, *((name, text.encode()) for name, text in more.items())]


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
