"""What may come in by the ingress topic of a single tenant."""

from typing import NamedTuple

import pytest

from streamsched.core import headers as h
from streamsched.core.names import TopicNames
from streamsched.core.placement import partition_for
from streamsched.core.state import Headers
from streamsched.core.tenant_ingress import TenantIngress

NAMES = TopicNames("app")
TOPIC = "app.jobs.acme"
NOW_MS = 1_800_000_000_000
PARTITIONS = 7
ENVELOPE = b'{"id":"1","due_at":%d,"payload":{}}' % NOW_MS
HEADERS = [(h.ID, b"1"), (h.DUE_AT, b"%d" % NOW_MS)]


class Record(NamedTuple):
    """An ingress record."""

    key: bytes | None
    value: bytes | None
    headers: Headers | None = ()
    offset: int = 5
    timestamp: int | None = NOW_MS - 1


def taken(record: Record, topic: str = TOPIC) -> tuple[list[str], str | None]:
    """The topics of what is written, and the reason of a rejection."""
    records, rejection = TenantIngress(NAMES, PARTITIONS).take(topic, 3, record, NOW_MS)
    return [out.topic for out in records], None if rejection is None else rejection.reason.value


@pytest.mark.parametrize("key", [None, b"acme", b"other", b"\xff no tenant"])
@pytest.mark.parametrize(
    ("value", "headers"), [(ENVELOPE, [("x", b"y")]), (b"\x00", [*HEADERS, ("x", None)])]
)
def test_a_record_that_names_nobody_is_of_the_topics_tenant(
    key: bytes | None, value: bytes, headers: Headers
) -> None:
    """Its key is no claim; the rest goes on as it came, its timestamp included."""
    record = Record(key, value, headers)
    records, rejection = TenantIngress(NAMES, PARTITIONS).take(TOPIC, 3, record, NOW_MS)
    assert rejection is None
    (out,) = records
    assert out.topic == NAMES.jobs
    assert out.partition == partition_for(b"acme", PARTITIONS)
    assert (out.key, out.value, out.headers) == (b"acme", value, list(headers))
    assert out.timestamp_ms == record.timestamp


def test_a_record_may_name_the_topics_tenant() -> None:
    """In either mode."""
    assert taken(Record(b"x", b"", [*HEADERS, (h.TENANT, b"acme")])) == (["app.jobs"], None)
    named = ENVELOPE[:-1] + b',"tenant":"acme"}'
    assert taken(Record(None, named)) == (["app.jobs"], None)


@pytest.mark.parametrize(
    "record",
    [
        Record(b"acme", b"", [*HEADERS, (h.TENANT, b"other")]),
        Record(b"acme", ENVELOPE[:-1] + b',"tenant":"other"}'),
        Record(b"acme", None, [(h.ID, b"1"), (h.TENANT, b"other")]),
    ],
    ids=["header", "envelope", "cancel"],
)
def test_a_record_that_names_another_tenant_is_rejected(record: Record) -> None:
    """Whoever may write to this topic may speak for its tenant alone."""
    assert taken(record) == (["app.rejected", "app.events"], "foreign_tenant")


def test_a_record_cannot_pretend_to_have_been_moved() -> None:
    """The marks of a moved record name its source and stop it from being moved again."""
    marks = [(h.MOVED, b"7"), (h.SOURCE, b"0-1")]
    found = taken(Record(b"acme", b"", [*HEADERS, *marks]))
    assert found == (["app.rejected", "app.events"], "unknown_header")


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (Record(b"acme", b"{"), "not_json"),
        (Record(b"acme", None), "missing_id"),
        (Record(b"acme", b"", None), "header_not_utf8"),
        (Record(b"acme", b"x" * 1_000_000, HEADERS), "too_large"),
    ],
)
def test_what_ingest_would_reject_is_rejected_here(record: Record, reason: str) -> None:
    """With its own topic and place, so that it can be found again."""
    ingress = TenantIngress(NAMES, PARTITIONS)
    records, rejection = ingress.take(TOPIC, 3, record, NOW_MS)
    assert rejection is not None
    assert rejection.reason.value == reason
    told = dict(records[0].headers)
    assert told[h.ERROR_TOPIC] == TOPIC.encode()
    assert (told[h.ERROR_PARTITION], told[h.ERROR_OFFSET]) == (b"3", b"5")


@pytest.mark.parametrize("name", ["", "with.dot", "a" * 101])
def test_a_topic_whose_name_ends_in_no_tenant_admits_nothing(name: str) -> None:
    """Kafka allows such topics; whoever made one is told by its rejected records."""
    assert taken(Record(b"acme", ENVELOPE), f"app.jobs.{name}")[1] == "illegal_tenant"
