"""The records a cycle sends out, other than the state's changelog."""

import hashlib
from typing import Any

import orjson

from streamsched.core import headers as h
from streamsched.core.commands import OP_CANCEL, Cancel, Command, IngressRecord
from streamsched.core.cycle import OutRecord
from streamsched.core.names import TopicNames
from streamsched.core.rejection import Reason, Rejection
from streamsched.core.state import JobRow
from streamsched.core.wire import record_bytes


def source_of(partition: int, offset: int) -> str:
    """How a place in the ingress topic is written in headers and events."""
    return f"{partition}-{offset}"


def rejected(
    names: TopicNames,
    topic: str,
    partition: int,
    record: IngressRecord,
    rejection: Rejection,
    now_ms: int,
) -> OutRecord:
    """A refused record of `topic`, as received, with the reason in added headers.

    One that is too large carries its size and SHA-256 instead of its bytes; headers of which a
    name is no UTF-8 are left out, because no client here can write them.
    """
    timestamp = -1 if record.timestamp is None else record.timestamp
    added: list[tuple[str, bytes | None]] = [
        (h.ERROR_CODE, rejection.reason.value.encode()),
        (h.ERROR_MESSAGE, rejection.message.encode(errors="replace")),
        (h.ERROR_TOPIC, topic.encode()),
        (h.ERROR_PARTITION, b"%d" % partition),
        (h.ERROR_OFFSET, b"%d" % record.offset),
        (h.ERROR_TIMESTAMP, b"%d" % timestamp),
    ]
    if rejection.reason is not Reason.TOO_LARGE:
        return OutRecord(
            names.rejected, -1, record.key, record.value, [*(record.headers or ()), *added], now_ms
        )
    digest = hashlib.sha256(record.value or b"").hexdigest()
    added.append((h.ERROR_SIZE, b"%d" % record_bytes(record)))
    added.append((h.ERROR_SHA256, digest.encode()))
    return OutRecord(names.rejected, -1, None, None, added, now_ms)


def rejected_event(
    names: TopicNames,
    topic: str,
    partition: int,
    record: IngressRecord,
    rejection: Rejection,
    now_ms: int,
) -> OutRecord:
    """The event of a refused record of `topic`."""
    return event(
        names,
        "rejected",
        None,
        None,
        now_ms,
        reason=rejection.reason.value,
        topic=topic,
        partition=partition,
        offset=record.offset,
        source=source_of(partition, record.offset),
    )


def moved(
    names: TopicNames,
    record: IngressRecord,
    command: Command,
    to_partition: int,
    partitions: int,
    source: str,
) -> OutRecord:
    """A misplaced record, rewritten in header mode for the partition that owns its tenant.

    Its due time is absolute from here on, so it does not matter how long the way takes.
    """
    marks: list[tuple[str, bytes | None]] = [
        (h.ID, command.job_id),
        (h.TENANT, command.tenant.encode()),
        (h.MOVED, b"%d" % partitions),
        (h.SOURCE, source.encode()),
    ]
    timestamp = -1 if record.timestamp is None else record.timestamp
    if isinstance(command, Cancel):
        marks.append((h.OP, OP_CANCEL.encode()))
        return OutRecord(names.jobs, to_partition, record.key, None, marks, timestamp)
    marks.append((h.DUE_AT, b"%d" % command.due_ms))
    if command.expires_ms:
        marks.append((h.EXPIRES_AT, b"%d" % command.expires_ms))
    if command.key is not None:
        marks.append((h.KEY, command.key))
    return OutRecord(
        names.jobs,
        to_partition,
        record.key,
        command.payload,
        [*command.headers, *marks],
        timestamp,
    )


def job_headers(tenant: bytes, job_id: bytes, job: JobRow) -> list[tuple[str, bytes | None]]:
    """The producer's own headers, then what names the job."""
    return [
        *job.headers,
        (h.ID, job_id),
        (h.TENANT, tenant),
        (h.DUE_AT, b"%d" % job.due_ms),
    ]


def dead_letter(
    names: TopicNames,
    tenant: bytes,
    job_id: bytes,
    job: JobRow,
    reason: str,
    message: str,
    now_ms: int,
) -> OutRecord:
    """An accepted job that is not dispatched, with the reason's code and words for people."""
    headers = job_headers(tenant, job_id, job)
    headers.append((h.OCCURRENCE, b"0"))
    headers.append((h.SOURCE, b"%d-%d" % (job.source_partition, job.source_offset)))
    headers.append((h.ERROR_CODE, reason.encode()))
    headers.append((h.ERROR_MESSAGE, message.encode(errors="replace")))
    key = job_id if job.key is None else job.key
    return OutRecord(names.dead_letters, -1, key, job.payload, headers, now_ms)


def event(
    names: TopicNames,
    kind: str,
    tenant: str | None,
    job_id: bytes | None,
    now_ms: int,
    **more: Any,
) -> OutRecord:
    """An outcome as JSON. `more` are the event's further fields."""
    body = {
        "event": kind,
        "tenant": tenant,
        "id": None if job_id is None else job_id.decode(),
        "at": now_ms,
        **more,
    }
    key = None if tenant is None else tenant.encode()
    return OutRecord(names.events, -1, key, orjson.dumps(body), [], now_ms)
