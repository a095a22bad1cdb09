"""Reading an ingress record: a command, or a rejection. Nothing else comes out, whatever comes in.

Header mode is used when a header of ours is present: the value is opaque and passes through.
Otherwise the value is a JSON envelope, whose payload is passed on as it stood.
"""

from streamsched.core import headers as names
from streamsched.core.commands import Command, IngressRecord
from streamsched.core.envelope import decode_envelope
from streamsched.core.header_mode import decode_header_mode
from streamsched.core.limits import JOB_BYTES_MAX, MOVED_MARKS_BYTES_MAX
from streamsched.core.rejection import Reason, Rejection
from streamsched.core.state import Headers


def record_bytes(record: IngressRecord) -> int:
    """Size of key, value and headers together, uncompressed."""
    size = len(record.key or b"") + len(record.value or b"")
    for name, value in record.headers:
        size += len(name.encode()) + len(value or b"")
    return size


def decode(record: IngressRecord, now_ms: int) -> Command | Rejection:
    """Read one ingress record."""
    value = record.value
    given = record.headers
    size = len(value or b"") + len(record.key or b"")
    if given:
        size = record_bytes(record)
    if size > JOB_BYTES_MAX and size > _bytes_max(given):
        return Rejection(
            Reason.TOO_LARGE,
            f"{size} bytes of key, value and headers, the limit is {JOB_BYTES_MAX}",
        )
    for name, _ in given:
        if name.startswith(names.PREFIX):
            return decode_header_mode(record, now_ms)
    if value is None:
        return Rejection(Reason.MISSING_ID, "a null value without the header streamsched-id")
    return decode_envelope(record, value, now_ms)


def _bytes_max(given: Headers) -> int:
    """The limit of a record: one that was moved has grown by the marks of its move."""
    is_moved = any(name == names.MOVED for name, _ in given)
    return JOB_BYTES_MAX + (MOVED_MARKS_BYTES_MAX if is_moved else 0)
