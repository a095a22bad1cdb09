"""Records that ingest must refuse, each with the reason that it must give."""

import itertools
import time
from collections.abc import Iterator
from typing import NamedTuple

from streamsched.core import headers as h
from streamsched.demo.reading_records import EXPECTED_REASON
from streamsched.demo.seen import Header


class BadRecord(NamedTuple):
    """One record as it is produced."""

    key: bytes | None
    value: bytes | None
    headers: list[Header]


def bad_records(tenant: str) -> Iterator[BadRecord]:
    """One bad record after the other, for ever; the tenant is named where one can be."""
    key = tenant.encode()
    for number in itertools.count():
        due = b"%d" % (time.time_ns() // 1_000_000)
        name: Header = (h.ID, b"bad-%d" % number)
        kinds: list[tuple[str, bytes | None, bytes | None, list[Header]]] = [
            ("not_json", key, b"{nearly json", []),
            ("not_utf8", key, b'{"id": "\xff\xfe"}', []),
            ("not_an_object", key, b'["id", "x"]', []),
            ("unknown_field", key, b'{"id":"x","due_at":%s,"payload":1,"expire_at":1}' % due, []),
            ("missing_id", key, b'{"due_at": %s, "payload": 1}' % due, []),
            ("missing_due", key, b'{"id": "x", "payload": 1}', []),
            ("two_dues", key, b'{"id":"x","due_at":%s,"delay_ms":5,"payload":1}' % due, []),
            ("time_in_seconds", key, b'{"id":"x","due_at":%s,"payload":1}' % due[:-3], []),
            ("time_too_far", key, b'{"id":"x","due_at":%s000,"payload":1}' % due, []),
            ("illegal_time", key, b'{"id":"x","due_at":"2031-01-01T10:00","payload":1}', []),
            ("illegal_tenant", b"acme.com", b"x", [name, (h.DUE_AT, due)]),
            ("missing_tenant", None, b"x", [name, (h.DUE_AT, due)]),
            ("missing_payload", key, b'{"id": "x", "due_at": %s}' % due, []),
            ("duplicate_header", key, b"x", [name, name, (h.DUE_AT, due)]),
            ("unknown_header", key, b"x", [name, ("streamsched-due", due)]),
            ("illegal_op", key, b"x", [name, (h.OP, b"delete")]),
            ("header_not_utf8", key, b"x", [(h.ID, b"\xff"), (h.DUE_AT, due)]),
        ]
        reason, record_key, value, headers = kinds[number % len(kinds)]
        marked = [(EXPECTED_REASON, reason.encode()), *headers]
        yield BadRecord(record_key, value, marked)
