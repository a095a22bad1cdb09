"""The checker's own reading of jobs and settings, from the contract and nothing else."""

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from streamsched.core import headers as h
from streamsched.demo.seen import BadSeen, CancelSeen, Header, JobSeen, SeenRecord

EXPECTED_REASON: Final = "demo-expected-reason"
"""A header of the demo's own: the sender of a bad record says why it must be rejected."""

_RATE: Final = re.compile(r"([1-9][0-9]*)/([0-9]*)(ms|s|m|h|d)", re.ASCII)
_UNIT_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SETTINGS_FIELDS: Final = frozenset(
    {"rate", "burst", "paused", "egress_topic", "egress_partitions", "events"}
)


class UnreadableError(Exception):
    """A record does not say what the contract wants; the text names what is wrong."""


def text_of(headers: Sequence[Header], name: str) -> str | None:
    """The text of a header, `None` where it is absent."""
    for key, value in headers:
        if key == name:
            return None if value is None else value.decode("utf-8", "replace")
    return None


def content_crc(key: bytes | None, value: bytes | None, headers: Sequence[Header]) -> int:
    """CRC-32 of all that a producer sent: key, value and headers in their order."""
    return zlib.crc32(repr((key, value, list(headers))).encode())


def read_ingress(record: SeenRecord) -> JobSeen | CancelSeen | BadSeen | None:
    """What an ingress record asks for; `None` for one that the scheduler itself has moved.

    Raises `UnreadableError` where a record that is not marked as bad is not understood.
    """
    headers = record.headers
    reason = text_of(headers, EXPECTED_REASON)
    if reason is not None:
        return BadSeen(reason, content_crc(record.key, record.value, headers))
    if text_of(headers, h.MOVED) is not None:
        return None
    try:
        if text_of(headers, h.ID) is not None:
            return _header_mode(record)
        return _envelope_mode(record)
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableError(
            f"ingress record {record.partition}-{record.offset} was not understood: {error!r}"
        ) from error


def _header_mode(record: SeenRecord) -> JobSeen | CancelSeen:
    found = {name: (value or b"").decode() for name, value in record.headers if name in h.INGRESS}
    place = (record.partition, record.offset)
    tenant = found.get(h.TENANT) or (record.key or b"").decode()
    if record.value is None or found.get(h.OP) == "cancel":
        return CancelSeen(place, tenant, found[h.ID], record.timestamp_ms)
    if h.DELAY_MS in found:
        due_ms = record.timestamp_ms + int(found[h.DELAY_MS])
    else:
        due_ms = _epoch_ms(found[h.DUE_AT], round_up=True)
    expires = found.get(h.EXPIRES_AT)
    return JobSeen(
        f"{record.partition}-{record.offset}",
        place,
        tenant,
        found[h.ID],
        due_ms,
        0 if expires is None else _epoch_ms(expires, round_up=False),
        record.timestamp_ms,
        zlib.crc32(record.value),
    )


def _envelope_mode(record: SeenRecord) -> JobSeen | CancelSeen:
    body = json.loads(record.value or b"")
    place = (record.partition, record.offset)
    tenant = body.get("tenant") or (record.key or b"").decode()
    if body.get("op") == "cancel":
        return CancelSeen(place, tenant, body["id"], record.timestamp_ms)
    if "delay_ms" in body:
        due_ms = record.timestamp_ms + int(body["delay_ms"])
    else:
        due_ms = _epoch_ms(body["due_at"], round_up=True)
    expires = body.get("expires_at")
    return JobSeen(
        f"{record.partition}-{record.offset}",
        place,
        tenant,
        body["id"],
        due_ms,
        0 if expires is None else _epoch_ms(expires, round_up=False),
        record.timestamp_ms,
        None,
    )


def _epoch_ms(moment: str | int, *, round_up: bool) -> int:
    """Epoch milliseconds of an integer or an RFC 3339 text with an offset."""
    if isinstance(moment, int) or moment.isdecimal():
        return int(moment)
    microseconds = (datetime.fromisoformat(moment) - _EPOCH) // timedelta(microseconds=1)
    return -(-microseconds // 1_000) if round_up else microseconds // 1_000


def read_rate(text: str) -> tuple[int, int] | None:
    """Count and period in ms of `40/s`; `None` for `unlimited`. Raises `UnreadableError`."""
    if text == "unlimited":
        return None
    match = _RATE.fullmatch(text)
    if match is None:
        raise UnreadableError(f"{text!r} is no rate")
    return int(match[1]), int(match[2] or 1) * _UNIT_MS[match[3]]


def read_settings(value: bytes) -> Mapping[str, Any]:
    """The fields of a settings record. Raises `UnreadableError` for one that is invalid."""
    try:
        fields = json.loads(value)
    except ValueError as error:
        raise UnreadableError("settings are no JSON") from error
    if not isinstance(fields, dict) or not fields.keys() <= _SETTINGS_FIELDS:
        raise UnreadableError("settings are no object of known fields")
    if "rate" in fields:
        read_rate(str(fields["rate"]))
    return fields
