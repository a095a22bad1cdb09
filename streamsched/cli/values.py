"""Values of options that are more than a text or a number."""

import re
from datetime import timedelta
from typing import Final

import typer

_PART: Final = re.compile(r"(\d{1,15})(ms|s|m|h|d)", re.ASCII)
_DELAY: Final = re.compile(rf"(?:{_PART.pattern})+", re.ASCII)
_UNIT_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DELAY_MS_MAX: Final = 10**15


def read_delay(text: str) -> timedelta:
    """A delay such as `250ms`, `90s` or `1h30m`. Raises `typer.BadParameter`."""
    delay_ms = 0
    if _DELAY.fullmatch(text):
        delay_ms = sum(int(m[1]) * _UNIT_MS[m[2]] for m in _PART.finditer(text))
    elif text != "0":
        raise typer.BadParameter(
            f"{text!r} is no delay: give numbers with units, such as 250ms, 90s or 1h30m",
            param_hint="--delay",
        )
    # The SDK says what is too long; this only keeps the number within what a timedelta can hold.
    return timedelta(milliseconds=min(delay_ms, _DELAY_MS_MAX))


def read_moment(text: str, option: str, now_ms: int, *, round_up: bool) -> int:
    """Epoch milliseconds of an RFC 3339 time with an offset, or of a number of them.

    Raises `typer.BadParameter`.
    """
    from streamsched.core.times import parse_time_text  # noqa: PLC0415 - needed by one command

    found = parse_time_text(text, now_ms, "the time", round_up=round_up)
    if isinstance(found, int):
        return found
    raise typer.BadParameter(found.message, param_hint=option)


def read_headers(texts: list[str]) -> list[tuple[str, str | bytes | None]]:
    """Headers from `NAME=VALUE`, in order. Raises `typer.BadParameter`."""
    headers: list[tuple[str, str | bytes | None]] = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--header")
        # Bytes of the command line that are no UTF-8 come as lone surrogates.
        headers.append((name, value.encode("utf-8", "surrogateescape")))
    return headers
