"""What an ingress record asks for, and the checks that both ways of asking share."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, Protocol

import msgspec

from streamsched.core.limits import JOB_ID_BYTES_MAX
from streamsched.core.rejection import Reason, Rejection
from streamsched.core.state import Headers
from streamsched.core.tenant_settings import TENANT_PATTERN

_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")

TENANTS_REMEMBERED_MAX: Final = 65_536
"""Tenants that were checked already and are not checked again."""

OP_SCHEDULE: Final = "schedule"
OP_CANCEL: Final = "cancel"


class SizedRecord(Protocol):
    """What a record is made of, and its size."""

    @property
    def key(self) -> bytes | None:
        """By convention the tenant."""
        ...

    @property
    def value(self) -> bytes | None:
        """The payload (header mode), or the envelope."""
        ...

    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]] | None:
        """In the producer's order, repeated ones included; `None` where a name is no UTF-8."""
        ...


class IngressRecord(SizedRecord, Protocol):
    """What is read of a record of the ingress; aiokafka's `ConsumerRecord` passes for it."""

    @property
    def offset(self) -> int:
        """Its place in the ingress partition."""
        ...

    @property
    def timestamp(self) -> int | None:
        """Milliseconds since the epoch, -1 or `None` where there is none."""
        ...


class Schedule(msgspec.Struct, frozen=True, gc=False):
    """A job to hold until `due_ms`."""

    tenant: str
    job_id: bytes
    due_ms: int
    expires_ms: int
    """0 is never."""
    key: bytes | None
    """The egress record's key; `None` stands for the id."""
    headers: Headers
    payload: bytes
    moved: "Moved | None" = None


class Cancel(msgspec.Struct, frozen=True, gc=False):
    """A pending job to drop."""

    tenant: str
    job_id: bytes
    moved: "Moved | None" = None


class Moved(msgspec.Struct, frozen=True, gc=False):
    """The mark of a record that was moved to the partition of its tenant."""

    partitions: int
    """The number of ingress partitions that the move was computed with."""
    source_partition: int
    source_offset: int


Command = Schedule | Cancel


def encode_id(text: str) -> bytes | Rejection:
    """A job's id as UTF-8, or why it is none."""
    raw = text.encode()
    if not 1 <= len(raw) <= JOB_ID_BYTES_MAX:
        return Rejection(
            Reason.ILLEGAL_ID, f"an id of {len(raw)} bytes; 1 to {JOB_ID_BYTES_MAX} are allowed"
        )
    # What is printable has no control characters; the rest is looked at more closely.
    if not text.isprintable() and _CONTROL.search(text):
        return Rejection(Reason.ILLEGAL_ID, f"control characters in id {text[:60]!r}")
    return raw


@lru_cache(TENANTS_REMEMBERED_MAX)
def check_tenant(text: str) -> str | Rejection:
    """A tenant that the record names, or why it is none."""
    if not TENANT_PATTERN.fullmatch(text.encode()):
        return Rejection(
            Reason.ILLEGAL_TENANT,
            f"tenant {text[:110]!r} is not 1 to 100 of A-Z a-z 0-9 _ -",
        )
    return text


@lru_cache(TENANTS_REMEMBERED_MAX)
def tenant_of_key(key: bytes | None) -> str | Rejection:
    """The tenant that the record's key stands for, or why it is none."""
    if key is None:
        return Rejection(Reason.MISSING_TENANT, "no tenant, and the record has no key")
    if not TENANT_PATTERN.fullmatch(key):
        return Rejection(
            Reason.ILLEGAL_TENANT,
            f"no tenant, and the record's key {key[:110]!r} is none: 1 to 100 of A-Z a-z 0-9 _ -",
        )
    return key.decode()
