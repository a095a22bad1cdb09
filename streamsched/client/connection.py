"""Which cluster and which installation a client talks to, and with which options."""

import logging
import re
import uuid
from collections.abc import Mapping
from typing import Any, Final

from streamsched.core.limits import MESSAGE_BYTES_MAX
from streamsched.core.names import TopicNames

_APP_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,100}", re.ASCII)

LIBRDKAFKA_LOG: Final = logging.getLogger("streamsched.client.librdkafka")
"""librdkafka's own messages, kept off standard error for those who set logging up."""

DELIVERY_TIMEOUT_MS: Final = 30_000
UNKNOWN_TOPIC_MS: Final = 5_000
"""How long a new topic may stay unknown to the broker we ask; ours exist beforehand."""

FIXED_PRODUCER_OPTIONS: Final[Mapping[str, str]] = {
    # librdkafka's default partitioner agrees with Java's on 8 % of keys; a job on another
    # partition than its tenant's is moved, and a cancel sent after it can overtake it.
    "partitioner": "murmur2_random",
    "acks": "all",
    "enable.idempotence": "true",
}
FIXED_CONSUMER_OPTIONS: Final[Mapping[str, str]] = {"isolation.level": "read_committed"}

_SPELLINGS: Final = {"-1": "all", "true": "true", "false": "false"}


class Connection:
    """Address, application id and the user's client options.

    Raises `ValueError` for an application id that no topic can have, and for an option that
    would undo what the SDK promises.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        app_id: str,
        config: Mapping[str, object] | None,
        *,
        tenant_ingress: bool = False,
    ) -> None:
        if not _APP_ID.fullmatch(app_id):
            raise ValueError(f"app_id {app_id!r} is not legal: use 1 to 100 of A-Z a-z 0-9 _ -")
        self.bootstrap_servers = bootstrap_servers
        self.names = TopicNames(app_id, tenant_ingress)
        self._config = {**(config or {}), "bootstrap.servers": bootstrap_servers}
        fixed = {
            **FIXED_PRODUCER_OPTIONS,
            **FIXED_CONSUMER_OPTIONS,
            "request.required.acks": "all",
        }
        for name, value in fixed.items():
            given = str(self._config.pop(name, value)).lower()
            if _SPELLINGS.get(given, given) != value:
                raise ValueError(
                    f"client option {name}={given} is not possible here: streamsched needs "
                    f"{value}; leave the option out"
                )

    def producer_config(self) -> dict[str, Any]:
        """Options of a producer of jobs and settings."""
        return {
            "linger.ms": 5,
            "delivery.timeout.ms": DELIVERY_TIMEOUT_MS,
            "topic.metadata.propagation.max.ms": UNKNOWN_TOPIC_MS,
            "queue.buffering.max.kbytes": 65_536,
            "logger": LIBRDKAFKA_LOG,
            **self._config,
            **FIXED_PRODUCER_OPTIONS,
            "message.max.bytes": MESSAGE_BYTES_MAX,
            # A topic made by accident would have one partition and the wrong cleanup policy.
            "allow.auto.create.topics": False,
        }

    def consumer_config(self, group: str | None = None, **options: object) -> dict[str, Any]:
        """Options of a consumer; without `group` it gets a group id that is never committed."""
        return {
            "group.id": group or f"{self.names.reader_group_prefix}{uuid.uuid4().hex}",
            "enable.auto.commit": group is not None,
            "logger": LIBRDKAFKA_LOG,
            **{name: value for name, value in self._config.items() if name != "group.id"},
            # A position counts only once its job was handled, which the readers say themselves.
            "enable.auto.offset.store": False,
            **FIXED_CONSUMER_OPTIONS,
            **options,
        }
