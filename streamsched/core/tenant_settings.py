"""A tenant's settings: the record an operator publishes, and what follows from it.

A record replaces the previous one whole. A field it leaves out takes the value of the record
keyed `*`, then the built-in one.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

import orjson

from streamsched.core.limits import BURST_MAX, EGRESS_PARTITIONS_MAX, TENANT_LENGTH_MAX
from streamsched.core.names import DEFAULT_TENANT, TopicNames
from streamsched.core.rate import Rate, parse_rate

TENANT_PATTERN: Final = re.compile(rb"[A-Za-z0-9_-]{1,%d}" % TENANT_LENGTH_MAX)
_TOPIC_PATTERN: Final = re.compile(r"[A-Za-z0-9._-]{1,249}", re.ASCII)

EVENTS_OUTCOMES: Final = "outcomes"
EVENTS_ALL: Final = "all"


class InvalidSettings(ValueError):
    """A settings record cannot be used; the text says which field and why."""


@dataclass(frozen=True, slots=True)
class OwnSettings:
    """One settings record as published. `None` and a missing name mean "not given".

    `rate_given` tells an explicit `unlimited` (`rate` None, given) from an absent rate.
    """

    rate: Rate | None = None
    rate_given: bool = False
    burst: int | None = None
    paused: bool | None = None
    egress_topic: str | None = None
    egress_partitions: int | None = None
    events: str | None = None

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to the defaults."""
        return self.rate_given and None not in (
            self.burst,
            self.paused,
            self.egress_topic,
            self.egress_partitions,
            self.events,
        )


NOTHING: Final = OwnSettings()


@dataclass(frozen=True, slots=True)
class EffectiveSettings:
    """What applies to one tenant."""

    rate: Rate | None
    """`None` is unlimited."""
    burst: int
    paused: bool
    egress_topic: str
    egress_partitions: int
    all_events: bool

    @property
    def pace(self) -> tuple[Rate, int] | None:
        """Rate and burst together, the part that the limiter's state depends on."""
        return None if self.rate is None else (self.rate, self.burst)


def merge(
    own: OwnSettings, default: OwnSettings, tenant: str, names: TopicNames
) -> EffectiveSettings:
    """The tenant's own record over the record of `*` over what is built in."""
    source = own if own.rate_given else default

    def pick(name: str, built_in: Any) -> Any:
        for record in (own, default):
            value = getattr(record, name)
            if value is not None:
                return value
        return built_in

    return EffectiveSettings(
        rate=source.rate,
        burst=pick("burst", 1),
        paused=pick("paused", False),
        egress_topic=pick("egress_topic", names.egress(tenant)),
        egress_partitions=pick("egress_partitions", 1),
        all_events=pick("events", EVENTS_OUTCOMES) == EVENTS_ALL,
    )


def decode_settings_key(key: bytes | None) -> str:
    """The tenant (or `*`) that a settings record is about. Raises `InvalidSettings`."""
    if key is None:
        raise InvalidSettings("the record has no key; the key names the tenant, or * for all")
    if key == DEFAULT_TENANT.encode():
        return DEFAULT_TENANT
    if not TENANT_PATTERN.fullmatch(key):
        raise InvalidSettings(
            f"key {key[:120]!r} is no tenant: 1 to {TENANT_LENGTH_MAX} of A-Z a-z 0-9 _ -"
        )
    return key.decode()


def decode_settings(value: bytes, names: TopicNames) -> OwnSettings:
    """Read a settings record's value. Raises `InvalidSettings` naming the field and the fault."""
    try:
        record = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise InvalidSettings(f"not valid JSON: {error}") from error
    if not isinstance(record, dict):
        raise InvalidSettings("not a JSON object")
    fields: dict[str, Any] = {}
    for name, raw in record.items():
        reader = _READERS.get(name)
        if reader is None:
            raise InvalidSettings(
                f"unknown field {name[:80]!r}; known: {', '.join(sorted(_READERS))}"
            )
        fields[name] = reader(raw, names)
    return OwnSettings(rate_given="rate" in fields, **fields)


def encode_settings(own: OwnSettings) -> bytes:
    """The record's value as JSON, absent fields left out."""
    record: dict[str, Any] = {}
    if own.rate_given:
        record["rate"] = "unlimited" if own.rate is None else str(own.rate)
    for name in ("burst", "paused", "egress_topic", "egress_partitions", "events"):
        value = getattr(own, name)
        if value is not None:
            record[name] = value
    return orjson.dumps(record)


def _read_rate(raw: Any, names: TopicNames) -> Rate | None:
    del names
    if not isinstance(raw, str):
        raise InvalidSettings('rate is not a string such as "40/s"')
    try:
        return parse_rate(raw)
    except ValueError as error:
        raise InvalidSettings(str(error)) from error


def _read_integer(name: str, raw: Any, highest: int) -> int:
    if type(raw) is not int or not 1 <= raw <= highest:
        raise InvalidSettings(f"{name} is not an integer from 1 to {highest}")
    return raw


def _read_burst(raw: Any, names: TopicNames) -> int:
    del names
    return _read_integer("burst", raw, BURST_MAX)


def _read_egress_partitions(raw: Any, names: TopicNames) -> int:
    del names
    return _read_integer("egress_partitions", raw, EGRESS_PARTITIONS_MAX)


def _read_paused(raw: Any, names: TopicNames) -> bool:
    del names
    if not isinstance(raw, bool):
        raise InvalidSettings("paused is not true or false")
    return raw


def _read_events(raw: Any, names: TopicNames) -> str:
    del names
    if raw not in (EVENTS_OUTCOMES, EVENTS_ALL):
        raise InvalidSettings('events is neither "outcomes" nor "all"')
    return str(raw)


def _read_egress_topic(raw: Any, names: TopicNames) -> str:
    if not isinstance(raw, str) or not _TOPIC_PATTERN.fullmatch(raw) or raw in (".", ".."):
        raise InvalidSettings("egress_topic is no legal topic name")
    if names.is_reserved(raw):
        raise InvalidSettings(
            f"egress_topic {raw!r} is reserved: it may not start with __, {names.app_id}. or "
            f"{names.app_id}- (except {names.egress_prefix}…)"
        )
    return raw


_READERS: Final = {
    "rate": _read_rate,
    "burst": _read_burst,
    "paused": _read_paused,
    "egress_topic": _read_egress_topic,
    "egress_partitions": _read_egress_partitions,
    "events": _read_events,
}
