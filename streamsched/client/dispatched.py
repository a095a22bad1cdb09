"""Dispatched jobs as a worker reads them from an egress topic, and how to submit one again."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import orjson
from confluent_kafka import Message

from streamsched.client.jobs import Header, Job, Moment
from streamsched.core import headers as h


@dataclass(frozen=True, slots=True)
class Dispatched:
    """One job that has left to its tenant's workers.

    (`source`, `occurrence`) names this dispatch for ever, so a worker that may read a record
    twice can tell. `headers` are the producer's own, in order, repeated names kept.
    """

    tenant: str
    id: str
    due_at_ms: int
    dispatched_at_ms: int
    occurrence: int
    source: str
    key: bytes
    value: bytes
    headers: tuple[Header, ...]
    topic: str
    partition: int
    offset: int

    def json(self) -> Any:
        """The payload read as JSON. Raises `orjson.JSONDecodeError` where it is none."""
        return orjson.loads(self.value)


def dispatched_from(message: Message) -> Dispatched | None:
    """The dispatched job in `message`, or `None` where the scheduler did not write it."""
    ours: dict[str, str] = {}
    own: list[Header] = []
    for name, value in cast("list[Header]", message.headers() or []):
        if name.startswith(h.PREFIX):
            ours[name] = (value or b"").decode("utf-8", "replace")
        else:
            own.append((name, value))
    try:
        return Dispatched(
            tenant=ours[h.TENANT],
            id=ours[h.ID],
            due_at_ms=int(ours[h.DUE_AT]),
            dispatched_at_ms=int(ours[h.DISPATCHED_AT]),
            occurrence=int(ours[h.OCCURRENCE]),
            source=ours[h.SOURCE],
            key=message.key() or b"",
            value=message.value() or b"",
            headers=tuple(own),
            topic=message.topic() or "",
            partition=_number(message.partition()),
            offset=_number(message.offset()),
        )
    except (KeyError, ValueError):
        return None


def resubmission(
    record: Dispatched,
    *,
    due_at: Moment | None = None,
    delay: timedelta | None = None,
    expires_at: Moment | None = None,
    id: str | None = None,  # noqa: A002  (the contract's word)
) -> Job:
    """The job that schedules a dispatched record again, under its own id unless one is given.

    The key is kept unless it is the id, which is the key of a job that was submitted without.
    Raises `ValueError` where the key is no UTF-8.
    """
    key: str | None = None
    if record.key != record.id.encode():
        try:
            key = record.key.decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"the key {record.key!r} of job {record.id!r} is no UTF-8: submit it as a new job"
            ) from error
    return Job(
        tenant=record.tenant,
        id=record.id if id is None else id,
        payload=record.value,
        due_at=due_at,
        delay=delay,
        expires_at=expires_at,
        key=key,
        headers=record.headers,
    )


def _number(value: int | None) -> int:
    return -1 if value is None else value
