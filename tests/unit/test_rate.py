"""Rates are exact: a count and a period in milliseconds."""

import pytest

from streamsched.core.limits import RATE_COUNT_MAX
from streamsched.core.rate import Rate, parse_rate


@pytest.mark.parametrize(
    ("text", "count", "period_ms"),
    [
        ("1/m", 1, 60_000),
        ("10/m", 10, 60_000),
        ("40/s", 40, 1_000),
        ("1500/s", 1_500, 1_000),
        ("1/333ms", 1, 333),
        ("1/2s", 1, 2_000),
        ("100000/d", 100_000, 86_400_000),
        ("3/1h", 3, 3_600_000),
        (f"{RATE_COUNT_MAX}/ms", RATE_COUNT_MAX, 1),
    ],
)
def test_rates_are_read_and_written(text: str, count: int, period_ms: int) -> None:
    """A rate is read as it is spelt, and what is written reads the same."""
    rate = parse_rate(text)
    assert rate == Rate(count, period_ms)
    assert parse_rate(str(rate)) == rate


def test_unlimited() -> None:
    """`unlimited` is no rate."""
    assert parse_rate("unlimited") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "40",
        "40/",
        "/s",
        "-1/s",
        "1.5/s",
        "40 /s",
        "40/S",
        "40/w",
        "٤/s",
        "1/s\n",
        "0/s",
        "1/0s",
        f"{RATE_COUNT_MAX + 1}/s",
        "1/367d",
        "9" * 5_000 + "/s",
    ],
)
def test_bad_rates(text: str) -> None:
    """Anything else, 0 and out of range are refused with a sentence."""
    with pytest.raises(ValueError, match=r"^rate .+"):
        parse_rate(text)
