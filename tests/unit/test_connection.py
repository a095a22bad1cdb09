"""The admin client behind what is asked of a cluster."""

import pytest

from streamsched.kafka.broker_node import free_port
from streamsched.kafka.connection import Connection, KafkaAway


def test_a_client_without_an_answer_is_replaced() -> None:
    """One that was told of no brokers finds none again: the next question is a new one's."""
    connection = Connection({"bootstrap.servers": f"127.0.0.1:{free_port()}"})
    for ask in (connection.metadata, lambda seconds: connection.facts(["topic"], seconds)):
        before = connection.client
        with pytest.raises(KafkaAway):
            ask(0.1)
        assert connection.client is not before
