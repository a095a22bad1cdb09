"""Times on the wire: RFC 3339 with an offset or epoch milliseconds, nothing guessed."""

import pytest

from streamsched.core.limits import DUE_AHEAD_MS_MAX, EPOCH_MS_MIN
from streamsched.core.rejection import Reason, Rejection
from streamsched.core.times import check_epoch_ms, due_after, parse_time, parse_time_text

NOW = 1_800_000_000_000


def parse(text: str, *, round_up: bool = True) -> int | Reason:
    """The time, or why there is none."""
    found = parse_time_text(text, NOW, "due", round_up=round_up)
    return found.reason if isinstance(found, Rejection) else found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2027-01-15T08:00:00Z", NOW),
        ("2027-01-15t08:00:00z", NOW),
        ("2027-01-15T09:30:00+01:30", NOW),
        ("2027-01-14T08:01:00-23:59", NOW),
        ("2027-01-15T08:00:00-00:00", NOW),
        ("2027-01-15T08:00:00.5Z", NOW + 500),
        ("2027-01-15T08:00:00.123000000Z", NOW + 123),
        ("1800000000000", NOW),
        ("2028-02-29T00:00:00Z", 1_835_395_200_000),
    ],
)
def test_times_that_are_read(text: str, expected: int) -> None:
    """Offsets, fractions, lower case and leap days are read."""
    assert parse(text) == expected
    assert parse(text, round_up=False) == expected


@pytest.mark.parametrize("fraction", ["0001", "000999999999999999", "0000000000000001"])
def test_parts_of_a_millisecond(fraction: str) -> None:
    """They round up for due, so never early, and down for expiry, so never late."""
    text = f"2027-01-15T08:00:00.{fraction}Z"
    assert parse(text, round_up=True) == NOW + 1
    assert parse(text, round_up=False) == NOW


def test_fraction_carries_into_the_next_second() -> None:
    """.9999 rounds up to the second that follows."""
    assert parse("2027-01-15T07:59:59.9999Z") == NOW
    assert parse("2027-01-15T07:59:59.9999Z", round_up=False) == NOW - 1


@pytest.mark.parametrize(
    "text",
    [
        "2027-01-15T08:00:00",
        "2027-01-15 08:00:00Z",
        "2027-01-15",
        "2027-01-15T08:00Z",
        "2027-01-15T08:00:00.Z",
        "2027-01-15T08:00:00+0100",
        "2027-01-15T08:00:00+24:00",
        "2027-01-15T08:00:00+01:60",
        "2027-01-15T24:00:00Z",
        "2027-02-29T00:00:00Z",
        "2016-12-31T23:59:60Z",
        "0000-01-01T00:00:00Z",
        "2027-01-15T08:00:00Z\n",
        "+1800000000000",
        " 1800000000000",
        "1.8e12",
        "",
    ],
)
def test_times_that_are_refused(text: str) -> None:
    """No offset, no such moment (a leap second included), other spellings: refused."""
    assert parse(text) is Reason.ILLEGAL_TIME


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("9999-12-31T23:59:59Z", Reason.TIME_TOO_FAR),
        ("9999-12-31T23:59:59-23:59", Reason.TIME_TOO_FAR),
        ("1800000000000000", Reason.TIME_TOO_FAR),
        ("1800000000", Reason.TIME_IN_SECONDS),
        ("0001-01-01T00:00:00+23:59", Reason.TIME_IN_SECONDS),
        ("-1", Reason.TIME_IN_SECONDS),
    ],
)
def test_times_in_another_unit(text: str, reason: Reason) -> None:
    """Seconds, microseconds and the ends of the calendar are refused, not wrapped."""
    assert parse(text) is reason


def test_bounds_are_exact() -> None:
    """The first and the last millisecond that are accepted."""
    assert check_epoch_ms(EPOCH_MS_MIN, NOW, "due") == EPOCH_MS_MIN
    assert isinstance(check_epoch_ms(EPOCH_MS_MIN - 1, NOW, "due"), Rejection)
    assert check_epoch_ms(NOW + DUE_AHEAD_MS_MAX, NOW, "due") == NOW + DUE_AHEAD_MS_MAX
    assert isinstance(check_epoch_ms(NOW + DUE_AHEAD_MS_MAX + 1, NOW, "due"), Rejection)


def test_message_names_field_and_remedy() -> None:
    """A refused time says which field it was and what it probably is."""
    refused = parse_time("2027-01-15T08:00:00", NOW, "expires_at", round_up=False)
    assert isinstance(refused, Rejection)
    assert "expires_at" in refused.message
    assert "offset" in refused.message


def test_delay_from_the_timestamp() -> None:
    """A delay counts from the record, 0 included; negative ones and no timestamp are refused."""
    assert due_after(0, NOW - 5, NOW, "delay") == NOW - 5
    assert due_after(7, NOW - 5, NOW, "delay") == NOW + 2
    for delay, timestamp, reason in (
        (-1, NOW, Reason.ILLEGAL_DELAY),
        (1, -1, Reason.NO_TIMESTAMP),
        (10**16, NOW, Reason.TIME_TOO_FAR),
    ):
        refused = due_after(delay, timestamp, NOW, "delay")
        assert isinstance(refused, Rejection)
        assert refused.reason is reason
