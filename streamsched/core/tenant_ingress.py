"""Ingress topics of single tenants: there the tenant is the topic's, whatever a record says.

Kafka's rights then decide who may submit for whom. What is admitted goes on to the ingress topic
as it came, under its tenant as the key; nothing else about it changes, its timestamp included.
"""

from typing import NamedTuple

from streamsched.core import outbox
from streamsched.core.commands import IngressRecord
from streamsched.core.cycle import OutRecord
from streamsched.core.names import TopicNames
from streamsched.core.placement import partition_for
from streamsched.core.rejection import Reason, Rejection
from streamsched.core.state import Headers
from streamsched.core.tenant_settings import TENANT_PATTERN
from streamsched.core.wire import decode


class Keyed(NamedTuple):
    """A record as it goes on: `key` is its topic's tenant."""

    offset: int
    timestamp: int | None
    key: bytes
    value: bytes | None
    headers: Headers | None


class TenantIngress:
    """Decides what becomes of records on ingress topics of single tenants."""

    def __init__(self, names: TopicNames, partitions: int) -> None:
        """`partitions` of the ingress topic, over which tenants are spread."""
        self._names = names
        self._partitions = partitions

    def take(
        self, topic: str, partition: int, record: IngressRecord, now_ms: int
    ) -> tuple[list[OutRecord], Rejection | None]:
        """What to write for one record: the same on the ingress topic, or its rejection."""
        tenant = topic.removeprefix(self._names.tenant_jobs_prefix)
        rejection = _fault(tenant, record, now_ms)
        if rejection is not None:
            return self._refused(topic, partition, record, rejection, now_ms), rejection
        key = tenant.encode()
        timestamp = -1 if record.timestamp is None else record.timestamp
        to = partition_for(key, self._partitions)
        headers = list(record.headers or ())
        return [OutRecord(self._names.jobs, to, key, record.value, headers, timestamp)], None

    def _refused(
        self,
        topic: str,
        partition: int,
        record: IngressRecord,
        rejection: Rejection,
        now_ms: int,
    ) -> list[OutRecord]:
        return [
            outbox.rejected(self._names, topic, partition, record, rejection, now_ms),
            outbox.rejected_event(self._names, topic, partition, record, rejection, now_ms),
        ]


def _fault(tenant: str, record: IngressRecord, now_ms: int) -> Rejection | None:
    if not TENANT_PATTERN.fullmatch(tenant.encode()):
        return Rejection(
            Reason.ILLEGAL_TENANT,
            f"the topic's name ends in {tenant[:110]!r}, which is not 1 to 100 of A-Z a-z 0-9 _ -",
        )
    keyed = Keyed(record.offset, record.timestamp, tenant.encode(), record.value, record.headers)
    command = decode(keyed, now_ms)
    if isinstance(command, Rejection):
        return command
    if command.tenant != tenant:
        return Rejection(
            Reason.FOREIGN_TENANT,
            f"the record names tenant {command.tenant!r}, and its topic is that of {tenant!r}",
        )
    if command.moved is not None:
        # Elsewhere these are taken for the scheduler's own, because it alone may write there.
        return Rejection(
            Reason.UNKNOWN_HEADER, "a record says that it was moved, which only we can do"
        )
    return None
