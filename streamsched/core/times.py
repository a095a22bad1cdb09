"""Points in time as they come on the wire: RFC 3339 with an offset, or epoch milliseconds."""

import re
from datetime import UTC, datetime, timedelta, timezone

from streamsched.core.limits import DUE_AHEAD_MS_MAX, EPOCH_MS_MIN
from streamsched.core.rejection import Reason, Rejection

_RFC3339 = re.compile(
    r"(\d{4})-(\d{2})-(\d{2})[Tt](\d{2}):(\d{2}):(\d{2})(?:\.(\d{1,18}))?"
    r"(?:([Zz])|([+-])(\d{2}):(\d{2}))",
    re.ASCII,
)
_INTEGER = re.compile(r"-?\d{1,30}", re.ASCII)
_SHOWN_MAX = 10**30
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def check_epoch_ms(value: int, now_ms: int, what: str) -> int | Rejection:
    """Refuse an epoch time that is likely in another unit; `what` names the field."""
    if value < EPOCH_MS_MIN:
        return Rejection(
            Reason.TIME_IN_SECONDS,
            f"{what} {_shown(value)} is too small for epoch milliseconds: are these seconds?",
        )
    if value > now_ms + DUE_AHEAD_MS_MAX:
        return Rejection(
            Reason.TIME_TOO_FAR,
            f"{what} {_shown(value)} is more than ten years ahead: are these microseconds?",
        )
    return value


def _shown(value: int) -> str:
    """The number as text; Python refuses to print one of more than 4,300 digits."""
    return str(value) if abs(value) < _SHOWN_MAX else "(a number of over 30 digits)"


def parse_time(text: str, now_ms: int, what: str, *, round_up: bool) -> int | Rejection:
    """Epoch milliseconds of an RFC 3339 text; parts of a millisecond round up or down."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        return Rejection(
            Reason.ILLEGAL_TIME,
            f"{what} {text[:60]!r} is no RFC 3339 time with an offset (2026-01-31T10:00:00Z)",
        )
    year, month, day, hour, minute, second = (int(match[i]) for i in range(1, 7))
    try:
        zone = UTC
        if match[8] is None:
            shift = timedelta(hours=int(match[10]), minutes=int(match[11]))
            if int(match[11]) > 59:
                raise ValueError("minutes of the offset")  # noqa: TRY301
            zone = timezone(-shift if match[9] == "-" else shift)
        whole = datetime(year, month, day, hour, minute, second, tzinfo=zone)
    except (ValueError, OverflowError):
        return Rejection(Reason.ILLEGAL_TIME, f"{what} {text[:60]!r} does not exist")
    value = (whole - _EPOCH) // _MILLISECOND
    fraction = (match[7] or "").ljust(3, "0")
    value += int(fraction[:3])
    if round_up and fraction[3:].strip("0"):
        value += 1
    return check_epoch_ms(value, now_ms, what)


def parse_time_text(text: str, now_ms: int, what: str, *, round_up: bool) -> int | Rejection:
    """As `parse_time`, but digits alone are epoch milliseconds (the form headers have)."""
    if _INTEGER.fullmatch(text):
        return check_epoch_ms(int(text), now_ms, what)
    return parse_time(text, now_ms, what, round_up=round_up)


def due_after(delay_ms: int, timestamp_ms: int, now_ms: int, what: str) -> int | Rejection:
    """Due time of a delay, counted from the record's own timestamp so that replays agree."""
    if delay_ms < 0:
        return Rejection(Reason.ILLEGAL_DELAY, f"{what} {_shown(delay_ms)} is negative")
    if timestamp_ms < 0:
        return Rejection(Reason.NO_TIMESTAMP, f"{what} on a record without a timestamp")
    return check_epoch_ms(timestamp_ms + delay_ms, now_ms, f"{what} after the timestamp,")
