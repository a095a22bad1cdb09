"""The embedded Kafka, as a user starts it and as it ends."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Consumer, KafkaError, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from streamsched.kafka.embedded import EmbeddedKafka, EmbeddedKafkaError
from streamsched.kafka.jars import kafka_tool_command
from tests.broker.java import brokers_on
from tests.broker.test_console_tools import connecting
from tests.connecting import client_options

FOREGROUND = """
import sys
from pathlib import Path
from streamsched.kafka.embedded import run_foreground
run_foreground(Path(sys.argv[1]), int(sys.argv[2]))
"""


def _start_foreground(folder: Path, port: int = 0) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", FOREGROUND, str(folder), str(port)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _produce(address: str, topic: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": address, "message.timeout.ms": 20_000})
    producer.produce(topic, value)
    assert producer.flush(25) == 0


def _read_all(address: str, topic: str, count: int) -> list[bytes | None]:
    options = {"bootstrap.servers": address, "group.id": "reader", "auto.offset.reset": "earliest"}
    consumer = Consumer(options)
    consumer.subscribe([topic])
    try:
        return [message.value() for message in consumer.consume(count, timeout=30)]
    finally:
        consumer.close()


@pytest.mark.parametrize("end", [EmbeddedKafka.stop, EmbeddedKafka.kill], ids=["stop", "kill"])
def test_data_and_address_survive_a_restart(
    own_kafka: EmbeddedKafka, end: Callable[[EmbeddedKafka], None]
) -> None:
    """Records written before a stop or a kill are there after a start, at the same address."""
    address = own_kafka.bootstrap_servers
    admin = AdminClient({"bootstrap.servers": address})
    admin.create_topics([NewTopic("t", 1)])["t"].result(10)
    _produce(address, "t", b"before")
    end(own_kafka)
    assert not own_kafka.running()
    own_kafka.start()
    assert own_kafka.bootstrap_servers == address
    _produce(address, "t", b"after")
    assert _read_all(address, "t", 2) == [b"before", b"after"]


def test_topics_are_never_created_by_accident(kafka: str, admin: AdminClient) -> None:
    """A record for an unknown topic is refused, and does not create it."""
    refused: list[KafkaError | None] = []
    producer = Producer({**client_options(kafka), "message.timeout.ms": 3000})
    producer.produce(
        "streamsched-nobody-made-this", b"x", on_delivery=lambda e, _: refused.append(e)
    )
    assert producer.flush(20) == 0
    assert [error is not None for error in refused] == [True]
    assert "streamsched-nobody-made-this" not in admin.list_topics(timeout=10).topics


def test_foreground_prints_one_line_and_stops_on_sigterm(tmp_path: Path) -> None:
    """`run_foreground` prints only the address, once it serves, and ends cleanly on SIGTERM."""
    process = _start_foreground(tmp_path)
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    assert AdminClient({"bootstrap.servers": address}).list_topics(timeout=10).brokers
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=40)
    assert (rest, process.returncode) == ("", 0)
    assert brokers_on(tmp_path) == []


def test_broker_dies_with_its_parent(tmp_path: Path) -> None:
    """After kill -9 of the process that started it, the broker ends by itself."""
    process = _start_foreground(tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    brokers = brokers_on(tmp_path)
    assert brokers
    process.kill()
    process.communicate(timeout=10)
    _, alive = psutil.wait_procs(brokers, timeout=30)
    assert alive == []


def test_broker_dies_with_its_guardian(tmp_path: Path) -> None:
    """Should somebody kill -9 the process in between, the broker does not stay either."""
    with EmbeddedKafka(tmp_path) as kafka:
        brokers = brokers_on(tmp_path)
        java = [process for process in brokers if process.children() == []]
        for guardian in {process.ppid() for process in java}:
            os.kill(guardian, signal.SIGKILL)
        _, alive = psutil.wait_procs(java, timeout=30)
        assert alive == []
        assert not kafka.running()


def test_broker_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    """A broker started in a short-lived thread goes on when the thread has ended."""
    kafka = EmbeddedKafka(tmp_path)
    thread = threading.Thread(target=kafka.start)
    thread.start()
    thread.join()
    try:
        assert not kafka.wait(0.5)
        address = kafka.bootstrap_servers
        assert AdminClient({"bootstrap.servers": address}).list_topics(timeout=10).brokers
    finally:
        kafka.stop()


def test_folder_in_use_is_refused(own_kafka: EmbeddedKafka, tmp_path: Path) -> None:
    """A second broker on the same folder is refused in one sentence, and the first goes on."""
    with pytest.raises(EmbeddedKafkaError, match="is in use by another embedded Kafka"):
        EmbeddedKafka(tmp_path / "kafka").start()
    assert own_kafka.running()


def test_port_in_use_is_refused(tmp_path: Path) -> None:
    """A port that somebody else has is named in one sentence."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EmbeddedKafkaError, match=f"^port {port} of 127.0.0.1 is in use: .*$"):
            EmbeddedKafka(tmp_path, port).start()


def test_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """A data folder below a file is named in one sentence."""
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedKafkaError, match="cannot be written"):
        EmbeddedKafka(tmp_path / "file" / "kafka").start()


def test_start_that_fails_shows_the_log(tmp_path: Path) -> None:
    """A broker that refuses its configuration is reported with the end of its log."""
    with EmbeddedKafka(tmp_path):
        pass
    broken = EmbeddedKafka(tmp_path, properties={"log.cleaner.threads": "many"})
    with pytest.raises(EmbeddedKafkaError, match=r"(?s)ended while it started.*log\.cleaner"):
        broken.start()
    assert not broken.running()


def test_kafkas_own_console_tools_run(kafka: str, admin: AdminClient, app_id: str) -> None:
    """Kafka's console producer and consumer work with the Java and the jars that we resolve."""
    admin.create_topics([NewTopic(f"{app_id}.console", 1)])[f"{app_id}.console"].result(10)
    where = ["--bootstrap-server", kafka, "--topic", f"{app_id}.console"]
    produce = kafka_tool_command(
        "org.apache.kafka.tools.ConsoleProducer", *where, *connecting(kafka, "--producer-property")
    )
    subprocess.run(produce, input=b"one\ntwo\n", check=True, timeout=60)
    consume = kafka_tool_command(
        *("org.apache.kafka.tools.consumer.ConsoleConsumer", *where),
        *("--from-beginning", "--max-messages", "2"),
        *connecting(kafka, "--consumer-property"),
    )
    done = subprocess.run(consume, check=True, timeout=60, capture_output=True)
    assert done.stdout == b"one\ntwo\n"
