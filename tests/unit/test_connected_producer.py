"""The client that fences: on librdkafka's own mock of a broker, and without any."""

from typing import Any

import pytest
from confluent_kafka import KafkaException

from streamsched.engine.librdkafka_log import LIBRDKAFKA_LOG
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
    client = connect(NOBODY, 0)
    assert isinstance(client, ConnectedProducer)
    assert client.topic == "test-jobs-changelog"
    with pytest.raises(KafkaException) as caught:
        client.init_transactions(0.1)
    assert caught.value.args[0].retriable()
