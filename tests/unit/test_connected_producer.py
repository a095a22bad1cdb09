"""The client that fences: on librdkafka's own mock of a broker, and without any."""

from typing import Any

import pytest
from confluent_kafka import KafkaException, ThrottleEvent

from streamsched.engine import producer
from streamsched.engine.librdkafka_log import LIBRDKAFKA_LOG
from streamsched.engine.patience import Patience
from streamsched.engine.producer import ConnectedProducer, connect, producer_config
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
    client = connect(NOBODY, 0, Patience())
    assert isinstance(client, ConnectedProducer)
    assert client.topic == "test-jobs-changelog"
    with pytest.raises(KafkaException) as caught:
        client.init_transactions(0.1)
    assert caught.value.args[0].retriable()


def test_client_is_made_as_patient_as_is_known_to_be_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its transaction may be open for longer than it waits for a delivery."""
    patience = Patience(lambda: 0.0)
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(producer, "ConnectedProducer", lambda config, **_: MadeOf(config, made))
    connect(NOBODY, 0, patience)
    patience.note_late(0)
    assert connect(NOBODY, 0, patience).message_timeout_ms == 6_000
    connect(NOBODY, 1, patience)
    patience.note_throttling(ThrottleEvent("kafka-1", 1, 5.0))
    connect(NOBODY, 1, patience)
    assert [
        (config["message.timeout.ms"], config["transaction.timeout.ms"]) for config in made
    ] == [(3_000, 10_000), (6_000, 13_000), (3_000, 10_000), (100_000, 120_000)]


class MadeOf:
    """Stands for a client; notes what it is made of."""

    def __init__(self, config: dict[str, Any], made: list[dict[str, Any]]) -> None:
        made.append(config)
