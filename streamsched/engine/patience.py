"""How long the clients of a process wait for their records to be delivered.

Briefly, as long as Kafka is quick: a record for a topic without a leader fails a whole transaction,
and the sooner it does the sooner all others of the cycle leave without it. But a transaction that
is aborted only because Kafka is slow is sent once more, which makes Kafka slower still; so whoever
was too impatient twice in a row has twice the patience from then on.
"""

import math
import time
from collections.abc import Callable
from typing import Final

import structlog
from confluent_kafka import ThrottleEvent

MESSAGE_TIMEOUT_MS: Final = 3_000
SLOW_MESSAGE_TIMEOUT_MS_MAX: Final = 24_000
REMEMBERED_SECONDS: Final = 120.0
"""How long a client that is made anew is patient for what was seen of Kafka before."""

QUOTA_MESSAGE_TIMEOUT_MS: Final = 100_000
"""For a client over its quota: a broker makes it wait after each request, and a large cycle is
several."""
QUOTA_SECONDS_MIN: Final = 1.0
"""A client that a broker makes wait for longer than this needs that much."""
QUOTA_TOLD_SECONDS: Final = 10.0

log = structlog.get_logger()


class Patience:
    """What is known of Kafka's slowness; one for all partitions. Safe from any thread."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._told_at = -math.inf
        self._throttled_at = -math.inf
        self._late: dict[int, tuple[float, int]] = {}
        """By partition: when its records were last not delivered in time, and what time that was
        doubled to."""

    def note_throttling(self, event: ThrottleEvent) -> None:
        """Called by a client where a broker's answer says that it makes the client wait.

        A quota is a user's or a client id's, so all partitions have it in common.
        """
        now = self._monotonic()
        if event.throttle_time >= QUOTA_SECONDS_MIN:
            self._throttled_at = now
        if not event.throttle_time or now - self._told_at < QUOTA_TOLD_SECONDS:
            return
        self._told_at = now
        log.warning(
            "slowed down by a quota of Kafka's: jobs leave later; raise producer_byte_rate or "
            "request_percentage of this user or client",
            broker=event.broker_name,
            seconds=round(event.throttle_time, 2),
        )

    def note_late(self, partition: int) -> None:
        """Called where a client is given up because it could not deliver in time."""
        doubled = min(2 * self._slow_timeout_ms(partition), SLOW_MESSAGE_TIMEOUT_MS_MAX)
        self._late[partition] = (self._monotonic(), doubled)

    def message_timeout_ms(self, partition: int) -> int:
        """How long a client of this partition that is made now should wait for a delivery."""
        if self._monotonic() - self._throttled_at < REMEMBERED_SECONDS:
            return QUOTA_MESSAGE_TIMEOUT_MS
        return self._slow_timeout_ms(partition)

    def _slow_timeout_ms(self, partition: int) -> int:
        noted_at, timeout_ms = self._late.get(partition, (-math.inf, MESSAGE_TIMEOUT_MS))
        is_fresh = self._monotonic() - noted_at < REMEMBERED_SECONDS
        return timeout_ms if is_fresh else MESSAGE_TIMEOUT_MS


def transaction_timeout_ms(message_timeout_ms: int) -> int:
    """How long a transaction may be open whose records are waited for for so long.

    It is how long that of a dead scheduler holds back readers, if nobody fences it.
    """
    return max(message_timeout_ms + 7_000, message_timeout_ms * 6 // 5)
