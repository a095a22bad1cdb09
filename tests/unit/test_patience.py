"""How long clients wait for deliveries, by what was seen of Kafka's slowness."""

import structlog
from confluent_kafka import ThrottleEvent

from streamsched.engine.patience import (
    MESSAGE_TIMEOUT_MS,
    QUOTA_MESSAGE_TIMEOUT_MS,
    REMEMBERED_SECONDS,
    SLOW_MESSAGE_TIMEOUT_MS_MAX,
    Patience,
)


def test_who_was_too_impatient_waits_twice_as_long_up_to_a_bound() -> None:
    """Each time it comes to that, and the partition alone that it happened to."""
    patience = Patience(lambda: 0.0)
    found = [patience.message_timeout_ms(0)]
    for _ in range(4):
        patience.note_late(0)
        found.append(patience.message_timeout_ms(0))
    assert found == [3_000, 6_000, 12_000, 24_000, SLOW_MESSAGE_TIMEOUT_MS_MAX]
    assert patience.message_timeout_ms(1) == MESSAGE_TIMEOUT_MS


def test_slowness_is_forgotten() -> None:
    """The first client after that is quick to give up again, and so is the next late one."""
    now = [0.0]
    patience = Patience(lambda: now[0])
    patience.note_late(0)
    patience.note_late(0)
    now[0] += REMEMBERED_SECONDS
    assert patience.message_timeout_ms(0) == MESSAGE_TIMEOUT_MS
    patience.note_late(0)
    assert patience.message_timeout_ms(0) == 2 * MESSAGE_TIMEOUT_MS


def test_a_quota_makes_all_partitions_patient() -> None:
    """A long wait is told once in a while; only one of a second and more counts."""
    now = [0.0]
    patience = Patience(lambda: now[0])
    with structlog.testing.capture_logs() as logs:
        for seconds in (0.0, 0.4, 0.6):
            patience.note_throttling(ThrottleEvent("kafka-1", 1, seconds))
    assert [(line["broker"], line["seconds"]) for line in logs] == [("kafka-1", 0.4)]
    assert patience.message_timeout_ms(0) == MESSAGE_TIMEOUT_MS
    patience.note_throttling(ThrottleEvent("kafka-1", 1, 5.0))
    assert {patience.message_timeout_ms(n) for n in range(3)} == {QUOTA_MESSAGE_TIMEOUT_MS}
    now[0] += REMEMBERED_SECONDS
    assert patience.message_timeout_ms(0) == MESSAGE_TIMEOUT_MS
