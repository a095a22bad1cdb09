"""A real Apache Kafka for development and tests, without Docker and without an installed Java.

One combined broker and controller (KRaft), as a child process that never outlives its parent.
Durability and speed are those of a developer's machine: one replica of everything.
"""

import contextlib
import fcntl
import logging
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Final, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from streamsched.kafka import jars
from streamsched.kafka.broker_node import (
    HOST,
    BrokerNode,
    EmbeddedKafkaError,
    free_port,
    is_free,
    new_cluster_id,
)
from streamsched.kafka.jars import Progress, kafka_tools_classpath, print_progress

__all__ = ["EmbeddedKafka", "EmbeddedKafkaError", "kafka_tools_classpath", "run_foreground"]

START_SECONDS_MAX: Final = 60.0
PORT_ATTEMPTS: Final = 5


class _PortTakenError(EmbeddedKafkaError):
    """Somebody took a port between our look and the broker's bind."""


class EmbeddedKafka:
    """A Kafka cluster under `data_dir`; `start()` it or use it as a context manager.

    `port` 0 takes a free one, and keeps it through `stop()` and `start()` of the same object.
    `properties` are broker settings that go over the built-in ones. `progress` is told of slow
    steps. A folder that was used before goes on with the data that is in it.
    """

    def __init__(
        self,
        data_dir: Path,
        port: int = 0,
        nodes: int = 1,
        *,
        properties: Mapping[str, str] | None = None,
        progress: Progress = print_progress,
    ) -> None:
        if nodes != 1:
            raise EmbeddedKafkaError(f"{nodes} nodes were asked for: the embedded Kafka has one")
        self._data_dir = data_dir.absolute()
        self._port = port
        self._properties = dict(properties or {})
        self._progress = progress
        self._nodes = [BrokerNode(i, self._data_dir / f"node-{i}") for i in range(1, nodes + 1)]
        self._lock: IO[str] | None = None

    @property
    def bootstrap_servers(self) -> str:
        """Address for clients; only after `start()`."""
        return ",".join(f"{HOST}:{node.port}" for node in self._nodes)

    def start(self) -> None:
        """Start and wait until it serves; raises `EmbeddedKafkaError` and leaves nothing behind."""
        try:
            classpath = jars.broker_classpath(self._progress)
        except jars.JarError as error:
            raise EmbeddedKafkaError(str(error)) from error
        self._acquire()
        try:
            for attempt in range(1, PORT_ATTEMPTS + 1):
                try:
                    self._start_nodes(classpath)
                except _PortTakenError:
                    if attempt == PORT_ATTEMPTS or self._port:
                        raise
                else:
                    return
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop in order; the data stays. Stopping what does not run is harmless."""
        for node in self._nodes:
            node.stop()
        self._release()

    def kill(self) -> None:
        """Kill every broker as a power cut would; `start()` brings it back with its data."""
        for node in self._nodes:
            node.kill()
        self._release()

    def running(self) -> bool:
        """Whether every broker process is there."""
        return all(node.running() for node in self._nodes)

    def wait(self, timeout_seconds: float) -> bool:
        """Wait for a broker to end by itself; whether one did."""
        return self._nodes[0].wait(timeout_seconds)

    def log_tail(self) -> str:
        """The last lines of the brokers' logs."""
        return "\n".join(node.log_tail() for node in self._nodes)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _acquire(self) -> None:
        """Make the folders and take the lock that keeps a second broker out of them."""
        try:
            for node in self._nodes:
                node.folder.mkdir(parents=True, exist_ok=True)
            lock = (self._data_dir / "lock").open("a")
        except OSError as error:
            raise EmbeddedKafkaError(
                f"data folder {self._data_dir} cannot be written ({error}): "
                "make it writable or name another one"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise EmbeddedKafkaError(
                f"data folder {self._data_dir} is in use by another embedded Kafka: "
                "stop that one or name another folder"
            ) from error
        self._lock = lock

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _start_nodes(self, classpath: str) -> None:
        cluster_id = new_cluster_id()
        for node in self._nodes:
            node.port = self._choose_port(node.port)
            node.controller_port = free_port()
            properties = node.write_properties(self._properties)
            node.format(classpath, properties, cluster_id)
            node.launch(classpath, properties)
        self._await_ready()

    def _choose_port(self, previous: int) -> int:
        if self._port and not is_free(self._port):
            raise EmbeddedKafkaError(
                f"port {self._port} of {HOST} is in use: stop what uses it or choose another port"
            )
        if self._port:
            return self._port
        return previous if previous and is_free(previous) else free_port()

    def _await_ready(self) -> None:
        """Ask for metadata until every node is in it."""
        # librdkafka prints each refused connection to standard error unless it has a logger.
        silent = logging.getLogger("streamsched.kafka.embedded.readiness")
        silent.setLevel(logging.CRITICAL + 1)
        options = {"reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 200}
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers, **options}, logger=silent)
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            if not self.running():
                tail = self.log_tail()
                taken = "Address already in use" in tail
                fault = "found its port in use" if taken else "ended while it started"
                text = f"the embedded Kafka {fault}; the end of its log:\n{tail}"
                self._stop_nodes()
                raise _PortTakenError(text) if taken else EmbeddedKafkaError(text)
            with contextlib.suppress(KafkaException):
                if len(admin.list_topics(timeout=0.5).brokers) == len(self._nodes):
                    return
            time.sleep(0.02)
        raise EmbeddedKafkaError(
            f"the embedded Kafka did not answer within {START_SECONDS_MAX:.0f} s; "
            f"the end of its log:\n{self.log_tail()}"
        )

    def _stop_nodes(self) -> None:
        for node in self._nodes:
            node.stop()


@contextlib.contextmanager
def _terminating_signals() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt like SIGINT, once; after the block both are as before."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {n: signal.signal(n, interrupt) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_foreground(data_dir: Path, port: int = 0, progress: Progress = print_progress) -> None:
    """Run until SIGTERM or SIGINT; prints the bootstrap address on standard output once ready.

    Only from the main thread. Raises `EmbeddedKafkaError` when it cannot start or ends by itself.
    """
    kafka = EmbeddedKafka(data_dir, port, progress=progress)
    with _terminating_signals():
        try:
            kafka.start()
            print(kafka.bootstrap_servers, flush=True)
            while not kafka.wait(3600):
                pass
            raise EmbeddedKafkaError(
                f"the embedded Kafka ended by itself; the end of its log:\n{kafka.log_tail()}"
            )
        except KeyboardInterrupt:
            pass
        finally:
            kafka.stop()
