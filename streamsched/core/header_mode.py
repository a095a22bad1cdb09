"""Header mode: the record's headers say what to do, its value is opaque and passes through."""

import re
from typing import Final

from streamsched.core import headers as names
from streamsched.core.commands import (
    OP_CANCEL,
    OP_SCHEDULE,
    Cancel,
    Command,
    IngressRecord,
    Moved,
    Schedule,
    check_tenant,
    encode_id,
    tenant_of_key,
)
from streamsched.core.rejection import Reason, Rejection
from streamsched.core.state import Headers
from streamsched.core.times import due_after, parse_time_text

_DIGITS: Final = re.compile(r"-?\d{1,18}", re.ASCII)
_SOURCE: Final = re.compile(r"(\d{1,9})-(\d{1,18})", re.ASCII)


def decode_header_mode(  # noqa: C901 - each check returns its own rejection
    record: IngressRecord, now_ms: int
) -> Command | Rejection:
    """Read a record that has headers of ours."""
    split = _split_headers(record.headers or ())
    if isinstance(split, Rejection):
        return split
    ours, passed = split
    text_id = ours.get(names.ID)
    if text_id is None:
        present = ", ".join(sorted(ours))
        return Rejection(Reason.MISSING_ID, f"{present} without {names.ID}")
    job_id = encode_id(text_id)
    if isinstance(job_id, Rejection):
        return job_id
    tenant = check_tenant(ours[names.TENANT]) if names.TENANT in ours else tenant_of_key(record.key)
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
