"""The client that fences: on librdkafka's own mock of a broker, and without any."""

from typing import Any

import pytest
import structlog
from confluent_kafka import KafkaException, ThrottleEvent

from streamsched.engine import producer
from streamsched.engine.librdkafka_log import LIBRDKAFKA_LOG
from streamsched.engine.producer import (
    QUOTA_MESSAGE_TIMEOUT_MS,
    QUOTA_REMEMBERED_SECONDS,
    ConnectedProducer,
    QuotaWatch,
    connect,
    producer_config,
)
from streamsched.settings import Settings

MOCK = Settings(app_id="test", kafka={"test_mock_num_brokers": "1"})
NOBODY = Settings(app_id="test", bootstrap_servers="127.0.0.1:1")


class Recorded(ConnectedProducer):
    """Notes what it asks for."""

    topic = "test-jobs-changelog"
    asked: list[str]

    def list_topics(self, *arguments: Any) -> Any:
        """Ask, and note it."""
        self.asked.append(arguments[0])
        return super().list_topics(*arguments)


def test_connections_stand_before_the_coordinator_is_looked_for() -> None:
    """Metadata is asked for twice, of the topic that will be written to, and then it fences."""
    client = Recorded(producer_config(MOCK, 0), logger=LIBRDKAFKA_LOG)
    client.asked = []
    client.init_transactions(10.0)
    assert client.asked == [Recorded.topic] * 2
    client.begin_transaction()
    client.abort_transaction(10.0)


def test_an_absent_broker_is_the_retriable_error_of_the_base_class() -> None:
    """What the metadata request says of it is not told; the fence is tried again."""
    client = connect(NOBODY, 0, QuotaWatch())
    assert isinstance(client, ConnectedProducer)
    assert client.topic == "test-jobs-changelog"
    with pytest.raises(KafkaException) as caught:
        client.init_transactions(0.1)
    assert caught.value.args[0].retriable()


def test_client_over_its_quota_is_made_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long wait is told once in a while, and the next clients are given time for it."""
    now = [0.0]
    quota = QuotaWatch(lambda: now[0])
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(producer, "ConnectedProducer", lambda config, **_: MadeOf(config, made))
    with structlog.testing.capture_logs() as logs:
        quota(ThrottleEvent("kafka-1", 1, 0.0))
        quota(ThrottleEvent("kafka-1", 1, 0.4))
        quota(ThrottleEvent("kafka-1", 1, 0.6))
    assert [(line["broker"], line["seconds"]) for line in logs] == [("kafka-1", 0.4)]
    connect(NOBODY, 0, quota)
    quota(ThrottleEvent("kafka-1", 1, 5.0))
    connect(NOBODY, 0, quota)
    now[0] += QUOTA_REMEMBERED_SECONDS
    connect(NOBODY, 0, quota)
    normal = producer_config(NOBODY, 0)["message.timeout.ms"]
    timeouts = [config["message.timeout.ms"] for config in made]
    assert timeouts == [normal, QUOTA_MESSAGE_TIMEOUT_MS, normal]


class MadeOf:
    """Stands for a client; notes what it is made of."""

    def __init__(self, config: dict[str, Any], made: list[dict[str, Any]]) -> None:
        made.append(config)
