"""Parts of the embedded Kafka that need no Kafka."""

import base64

from streamsched.kafka.broker_config import rack_properties
from streamsched.kafka.broker_node import PORTS, free_port, is_free, new_cluster_id


def test_cluster_ids_are_what_kafka_takes() -> None:
    """Every id is 16 bytes in base64, new each time, and never begins like an option."""
    ids = [new_cluster_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert {len(base64.urlsafe_b64decode(f"{text}==")) for text in ids} == {16}
    assert not [text for text in ids if text.startswith("-")]


def test_free_port_can_be_bound() -> None:
    """A chosen port is free and outside the range that outgoing connections use."""
    port = free_port()
    assert port in PORTS
    assert is_free(port)


def test_each_of_several_nodes_is_a_rack() -> None:
    """So that reading from the nearest can be tried; one node has nothing to choose from."""
    assert rack_properties(1, 1) == {}
    racks = {rack_properties(number, 3)["broker.rack"] for number in (1, 2, 3)}
    assert racks == {"rack-1", "rack-2", "rack-3"}
