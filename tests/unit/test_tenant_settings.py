"""A settings record: every field, every fault, and how it is merged with the defaults."""

import pytest

from streamsched.core.limits import BURST_MAX, EGRESS_PARTITIONS_MAX
from streamsched.core.names import TopicNames
from streamsched.core.rate import Rate
from streamsched.core.tenant_settings import (
    NOTHING,
    InvalidSettings,
    OwnSettings,
    decode_settings,
    decode_settings_key,
    encode_settings,
    merge,
)

NAMES = TopicNames("app")
FULL = OwnSettings(
    rate=Rate(40, 1_000),
    rate_given=True,
    burst=10,
    paused=True,
    egress_topic="shared.topic",
    egress_partitions=3,
    events="all",
)


def test_record_in_full() -> None:
    """Every field is read, and what is written reads the same."""
    value = (
        b'{"rate":"40/s","burst":10,"paused":true,"egress_topic":"shared.topic",'
        b'"egress_partitions":3,"events":"all"}'
    )
    assert decode_settings(value, NAMES) == FULL
    assert decode_settings(encode_settings(FULL), NAMES) == FULL
    assert FULL.is_complete


def test_unlimited_is_told_from_no_rate() -> None:
    """An explicit `unlimited` overrides a default rate, an absent one does not."""
    unlimited = decode_settings(b'{"rate":"unlimited"}', NAMES)
    assert decode_settings(encode_settings(unlimited), NAMES) == unlimited
    assert merge(unlimited, FULL, "t", NAMES).pace is None
    assert merge(NOTHING, FULL, "t", NAMES).pace == (Rate(40, 1_000), 10)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (b"", "JSON"),
        (b"\xff", "JSON"),
        (b'{"rate":NaN}', "JSON"),
        (b'{"rate":"\\ud800"}', "JSON"),
        (b"[" * 100_000, "JSON"),
        (b"[]", "object"),
        (b"null", "object"),
        (b'{"brust":1}', "'brust'"),
        (b'{"rate":40}', "rate"),
        (b'{"rate":null}', "rate"),
        (b'{"rate":"0/s"}', "pause it"),
        (b'{"rate":"1/x"}', "rate"),
        (b'{"burst":0}', "burst"),
        (b'{"burst":true}', "burst"),
        (b'{"burst":1.0}', "burst"),
        (b'{"burst":%d}' % (BURST_MAX + 1), "burst"),
        (b'{"burst":99999999999999999999999}', "burst"),
        (b'{"paused":1}', "paused"),
        (b'{"paused":"yes"}', "paused"),
        (b'{"egress_topic":1}', "egress_topic"),
        (b'{"egress_topic":""}', "egress_topic"),
        (b'{"egress_topic":".."}', "egress_topic"),
        (b'{"egress_topic":"a b"}', "egress_topic"),
        (b'{"egress_topic":"__consumer_offsets"}', "reserved"),
        (b'{"egress_topic":"app.jobs"}', "reserved"),
        (b'{"egress_topic":"app-jobs-changelog"}', "reserved"),
        (b'{"egress_partitions":0}', "egress_partitions"),
        (b'{"egress_partitions":%d}' % (EGRESS_PARTITIONS_MAX + 1), "egress_partitions"),
        (b'{"events":"none"}', "events"),
        (b'{"events":[]}', "events"),
    ],
)
def test_every_fault_is_named(value: bytes, fault: str) -> None:
    """A record that cannot be used says which field is wrong."""
    with pytest.raises(InvalidSettings, match=fault):
        decode_settings(value, NAMES)


@pytest.mark.parametrize("topic", ["app.egress.x", "app", "application.jobs", "x" * 249])
def test_topics_that_may_be_named(topic: str) -> None:
    """Our own egress topics, and whatever is not ours."""
    assert decode_settings(b'{"egress_topic":"%s"}' % topic.encode(), NAMES).egress_topic == topic


def test_merge_field_by_field() -> None:
    """A field comes from the tenant, then from `*`, then from what is built in."""
    built_in = merge(NOTHING, NOTHING, "acme", NAMES)
    assert (built_in.pace, built_in.burst, built_in.paused) == (None, 1, False)
    assert built_in.egress_topic == "app.egress.acme"
    assert (built_in.egress_partitions, built_in.all_events) == (1, False)
    mixed = merge(OwnSettings(paused=False, burst=2), FULL, "acme", NAMES)
    assert (mixed.paused, mixed.burst) == (False, 2)
    assert (mixed.rate, mixed.egress_topic) == (Rate(40, 1_000), "shared.topic")


@pytest.mark.parametrize("key", [None, b"", b"a.b", b"**", b"a" * 101, b"\xff", b"a\n"])
def test_bad_keys(key: bytes | None) -> None:
    """The key is a tenant or `*`."""
    with pytest.raises(InvalidSettings, match="key"):
        decode_settings_key(key)


def test_good_keys() -> None:
    """Tenants and the default."""
    assert decode_settings_key(b"*") == "*"
    assert decode_settings_key(b"A-z_0" * 20) == "A-z_0" * 20
