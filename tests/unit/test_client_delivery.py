"""What the SDK makes of a producer that cannot go on."""

import threading
from collections.abc import Callable

import pytest
from confluent_kafka import KafkaError, KafkaException

from streamsched.client import Client, DeliveryError

REFUSED = KafkaError(KafkaError.CLUSTER_AUTHORIZATION_FAILED, "Cluster authorization failed")
GIVEN_UP = KafkaError(KafkaError._PURGE_QUEUE, "Purged in queue")


Report = Callable[[KafkaError, None], None]


class Doomed:
    """A producer that may write nowhere: told once by `poll`, then each record is given up."""

    def __init__(self, _config: object) -> None:
        self._reports: list[Report] = []
        self._queued = threading.Event()
        self._told = False

    def produce(self, *_: object, on_delivery: Report, **__: object) -> None:
        self._reports.append(on_delivery)
        self._queued.set()

    def poll(self, seconds: float) -> int:
        if not self._queued.wait(seconds):
            return 0
        if not self._told:
            self._told = True
            raise KafkaException(REFUSED)
        while self._reports:
            self._reports.pop()(GIVEN_UP, None)
        return 1

    def flush(self, _seconds: float) -> int:
        return 0


@pytest.mark.timeout(30)
def test_each_record_of_a_producer_that_may_write_nowhere_is_told_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody waits for ever for a record, and the right is named."""
    monkeypatch.setattr("streamsched.client.delivery.Producer", Doomed)
    with Client("nowhere:1", "app") as client:
        for _ in range(2):
            with pytest.raises(DeliveryError, match=r"lacks Write on topic app\.tenant-settings"):
                client.set_tenant("acme", rate="1/s")
