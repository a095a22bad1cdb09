"""The embedded Kafka with three nodes: what one of them may suffer, and how all start and end."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, ConfigEntry, ConfigResource

from streamsched.kafka.broker_node import is_free
from streamsched.kafka.embedded import EmbeddedKafka, EmbeddedKafkaError
from tests.broker.cluster import await_condition, create_topic
from tests.broker.java import brokers_on
from tests.broker.reading import read_topics

TOPIC = "replicated"
ISR_SECONDS_MAX = 60.0

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """Three nodes and a topic, for all tests here; each leaves them running."""
    with EmbeddedKafka(tmp_path_factory.mktemp("cluster"), nodes=3) as kafka:
        create_topic(_admin(kafka), TOPIC, 3)
        yield kafka


def _admin(kafka: EmbeddedKafka) -> AdminClient:
    return AdminClient({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0})


def _config(admin: AdminClient, kind: str, name: str) -> dict[str, ConfigEntry]:
    resource = ConfigResource(kind, name)
    found: dict[str, ConfigEntry] = admin.describe_configs([resource])[resource].result(20)
    return found


def _in_sync(kafka: EmbeddedKafka, topic: str) -> list[set[int]]:
    found = _admin(kafka).list_topics(topic, timeout=20).topics[topic].partitions
    return [set(partition.isrs) for partition in found.values()]


def _await_in_sync(kafka: EmbeddedKafka, nodes: set[int], topic: str = TOPIC) -> None:
    await_condition(
        f"{nodes} are in sync",
        lambda: all(found == nodes for found in _in_sync(kafka, topic)),
        ISR_SECONDS_MAX,
        lambda: str(_in_sync(kafka, topic)),
    )


def _produce(kafka: EmbeddedKafka, value: bytes) -> None:
    """One record to each partition, acknowledged by all that are in sync."""
    options = {"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0}
    refused: list[object] = []
    producer = Producer({**options, "acks": "all", "message.timeout.ms": 40_000})
    for partition in range(3):
        producer.produce(
            TOPIC, value, partition=partition, on_delivery=lambda e, _: e and refused.append(e)
        )
    assert producer.flush(45) == 0
    assert refused == []


def _values(kafka: EmbeddedKafka) -> list[bytes | None]:
    return [message.value() for message in read_topics(kafka.bootstrap_servers, [TOPIC])]


def test_everything_is_on_three_nodes_of_which_two_must_have_it(cluster: EmbeddedKafka) -> None:
    """Topics by default, and those that Kafka makes for offsets and transactions."""
    options = {
        "bootstrap.servers": cluster.bootstrap_servers,
        "transactional.id": "t",
        "log_level": 0,
    }
    producer = Producer(options)
    producer.init_transactions(40)
    read_topics(cluster.bootstrap_servers, [TOPIC])
    admin = _admin(cluster)
    for topic in (TOPIC, "__transaction_state"):
        _await_in_sync(cluster, {1, 2, 3}, topic)
        assert _config(admin, "topic", topic)["min.insync.replicas"].value == "2"
    assert _config(admin, "broker", "1")["offsets.topic.replication.factor"].value == "3"


def test_a_killed_node_is_missed_by_nobody_and_comes_back(cluster: EmbeddedKafka) -> None:
    """Two nodes serve; the third takes up its port and its data again."""
    node = cluster.nodes[1]
    address = cluster.bootstrap_servers
    node.kill()
    assert not cluster.running()
    _await_in_sync(cluster, {1, 3})
    _produce(cluster, b"without node 2")
    cluster.start_node(node)
    assert cluster.running()
    assert cluster.bootstrap_servers == address
    _await_in_sync(cluster, {1, 2, 3})
    assert _values(cluster).count(b"without node 2") == 3


def test_a_suspended_node_drops_out_until_it_is_resumed(cluster: EmbeddedKafka) -> None:
    """A node that hangs is there as a process, but no longer in sync."""
    node = cluster.nodes[2]
    node.suspend()
    assert node.running()
    _await_in_sync(cluster, {1, 2})
    node.resume()
    _await_in_sync(cluster, {1, 2, 3})


def test_all_nodes_come_back_after_all_were_killed(cluster: EmbeddedKafka) -> None:
    """Records that were acknowledged are there when the cluster is, at the same addresses."""
    address = cluster.bootstrap_servers
    _produce(cluster, b"before the outage")
    cluster.kill()
    assert not any(node.running() for node in cluster.nodes)
    cluster.start()
    assert cluster.bootstrap_servers == address
    _await_in_sync(cluster, {1, 2, 3})
    assert _values(cluster).count(b"before the outage") == 3


def test_the_command_runs_three_nodes_until_sigterm(tmp_path: Path) -> None:
    """One line with three addresses, once all serve; no broker is left afterwards."""
    command = [sys.executable, "-m", "streamsched.cli.main"]
    command += ["broker", "--nodes", "3", "--port", "0", "--data-dir", str(tmp_path)]
    own = {k: v for k, v in os.environ.items() if not k.startswith("STREAMSCHED_")}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=own, cwd=tmp_path)
    assert process.stdout is not None
    addresses = process.stdout.readline().strip()
    brokers = brokers_on(tmp_path)
    admin = AdminClient({"bootstrap.servers": addresses, "log_level": 0})
    known = admin.list_topics(timeout=20).brokers.values()
    assert {f"{broker.host}:{broker.port}" for broker in known} == set(addresses.split(","))
    assert len(known) == 3
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=60)
    assert (rest, process.returncode) == ("", 0)
    assert len(brokers) >= 3
    _, alive = psutil.wait_procs(brokers, timeout=10)
    assert alive == []


@pytest.mark.parametrize(("there", "asked"), [(1, 3), (3, 1)])
def test_folder_with_another_number_of_nodes_is_refused(
    tmp_path: Path, there: int, asked: int
) -> None:
    """What would become half a cluster, or lose its quorum, is told instead of started."""
    for number in range(1, there + 1):
        data = tmp_path / f"node-{number}" / "log"
        data.mkdir(parents=True)
        (data / "meta.properties").write_text("version=1\ncluster.id=abc\n", "utf-8")
    if there > 1:
        (tmp_path / "nodes").write_text(f"{there}\n", "ascii")
    with pytest.raises(EmbeddedKafkaError, match=f"a cluster of {there} nodes?, not of {asked}: "):
        EmbeddedKafka(tmp_path, nodes=asked).start()


def test_no_nodes_are_refused(tmp_path: Path) -> None:
    """A cluster has at least one node."""
    with pytest.raises(EmbeddedKafkaError, match="0 nodes were asked for"):
        EmbeddedKafka(tmp_path, nodes=0)


@contextmanager
def taken_port(free_before: int) -> Iterator[int]:
    """A port that is in use, after so many that are not."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            if all(is_free(other) for other in range(port - free_before, port)):
                yield port
                return


def test_ports_of_further_nodes_follow_the_first(tmp_path: Path) -> None:
    """A port that is named is the first node's; one of the others in use is refused by number."""
    with (
        taken_port(free_before=2) as port,
        pytest.raises(EmbeddedKafkaError, match=f"^port {port} of 127.0.0.1 is in use: "),
    ):
        EmbeddedKafka(tmp_path, port - 2, nodes=3).start()
