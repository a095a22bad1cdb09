"""A real Apache Kafka for development and tests, without Docker and without an installed Java.

One combined broker and controller (KRaft), as a child process that never outlives its parent.
Durability and speed are those of a developer's machine: one replica of everything.
"""

import base64
import contextlib
import fcntl
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Final, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from streamsched.core import limits
from streamsched.kafka import guardian, jars
from streamsched.kafka.jars import Progress, kafka_tools_classpath, print_progress

__all__ = ["EmbeddedKafka", "EmbeddedKafkaError", "kafka_tools_classpath", "run_foreground"]

HOST: Final = "127.0.0.1"
START_SECONDS_MAX: Final = 60.0
PORT_ATTEMPTS: Final = 5
KILL_SECONDS_MAX: Final = 10.0
LOG_TAIL_LINES: Final = 25

# Below the range from which Linux and macOS take ports for outgoing connections, so that
# nobody takes a port by chance between our look and the broker's bind.
PORTS: Final = range(20_000, 32_000)

JVM_FLAGS: Final = (
    "-Xms256m",
    "-Xmx768m",
    "-XX:+UseSerialGC",
    "-XX:+ExitOnOutOfMemoryError",
    "-Djava.awt.headless=true",
)

LOG_CONFIG: Final = """\
<Configuration status="ERROR" shutdownHook="disable">
  <Appenders>
    <RollingFile name="file" fileName="{log}" filePattern="{log}.%i">
      <PatternLayout pattern="%d{{ISO8601}} %p %m (%c)%n"/>
      <SizeBasedTriggeringPolicy size="20MB"/>
      <DefaultRolloverStrategy max="2"/>
    </RollingFile>
  </Appenders>
  <Loggers><Root level="INFO"><AppenderRef ref="file"/></Root></Loggers>
</Configuration>
"""


class EmbeddedKafkaError(Exception):
    """The embedded Kafka cannot run; the text begins with one sentence for the user."""


class _PortTakenError(EmbeddedKafkaError):
    """Somebody took a port between our look and the broker's bind."""


class _Node:
    """One broker process and its folder."""

    def __init__(self, node_id: int, folder: Path) -> None:
        self.node_id = node_id
        self.folder = folder
        self.port = 0
        self.controller_port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def _log(self) -> Path:
        return self.folder / "server.log"

    @property
    def _output(self) -> Path:
        return self.folder / "output.log"

    def write_properties(self, extra: Mapping[str, str]) -> Path:
        """Write the broker's configuration; returns its path."""
        properties = {
            "process.roles": "broker,controller",
            "node.id": str(self.node_id),
            "listeners": f"PLAINTEXT://{HOST}:{self.port},CONTROLLER://{HOST}:{self.controller_port}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{self.port}",
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.bootstrap.servers": f"{HOST}:{self.controller_port}",
            "log.dirs": str(self.folder / "log"),
            **_DEVELOPER_PROPERTIES,
            **extra,
        }
        path = self.folder / "server.properties"
        path.write_text("".join(f"{k}={v}\n" for k, v in properties.items()), "utf-8")
        log_config = self.folder / "log4j2.xml"
        log_config.write_text(LOG_CONFIG.format(log=self._log), "utf-8")
        return path

    def format(self, classpath: str, properties: Path, cluster_id: str) -> None:
        """Write the identity of cluster and node into an empty folder; harmless when done."""
        if (self.folder / "log" / "meta.properties").exists():
            return
        done = subprocess.run(
            [
                *(jars.java(), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dlog4j2.level=OFF"),
                *("-cp", classpath, "kafka.tools.StorageTool", "format", "--standalone"),
                *("-t", cluster_id, "-c", str(properties)),
            ],
            check=False,
            capture_output=True,
            text=True,
            timeout=START_SECONDS_MAX,
        )
        if done.returncode != 0:
            raise EmbeddedKafkaError(
                f"data folder {self.folder} could not be formatted: delete it and start again\n"
                f"{done.stdout}{done.stderr}"
            )

    def launch(self, classpath: str, properties: Path) -> None:
        """Start the process; it is not ready yet."""
        self._log.unlink(missing_ok=True)
        guard = [sys.executable, "-I", "-S", guardian.__file__]
        java = [
            *(jars.java(), *JVM_FLAGS),
            f"-Dlog4j2.configurationFile={self.folder / 'log4j2.xml'}",
            *("-cp", classpath, "kafka.Kafka", str(properties)),
        ]
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [*guard, *java],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                # Ctrl-C reaches the whole foreground group; the broker must outlive its clients.
                start_new_session=True,
            )

    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def wait(self, timeout_seconds: float) -> bool:
        """Wait for the process to end by itself; whether it did."""
        if self._process is None:
            return True
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self) -> None:
        """End it in order, by force when it takes too long."""
        if self._process is None:
            return
        if self._process.stdin is not None:
            self._process.stdin.close()
        if not self.wait(guardian.STOP_SECONDS + 5):
            self.kill()
        self._process = None

    def kill(self) -> None:
        """End it as kill -9 does: nothing is flushed, nobody is told."""
        if self._process is None:
            return
        # The guardian leads a process group of its own, with the broker in it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process = None
        # Only the guardian is ours to wait for; the broker has gone when its port is free.
        deadline = time.monotonic() + KILL_SECONDS_MAX
        while not _is_free(self.port) and time.monotonic() < deadline:
            time.sleep(0.01)

    def log_tail(self) -> str:
        """The last lines that the broker wrote."""
        lines: list[str] = []
        for path in (self._log, self._output):
            with contextlib.suppress(OSError):
                lines += path.read_text("utf-8", "replace").splitlines()[-LOG_TAIL_LINES:]
        return "\n".join(lines)


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
        self._nodes = [_Node(i, self._data_dir / f"node-{i}") for i in range(1, nodes + 1)]
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
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        for node in self._nodes:
            node.port = self._choose_port(node.port)
            node.controller_port = _free_port()
            properties = node.write_properties(self._properties)
            node.format(classpath, properties, cluster_id)
            node.launch(classpath, properties)
        self._await_ready()

    def _choose_port(self, previous: int) -> int:
        if self._port and not _is_free(self._port):
            raise EmbeddedKafkaError(
                f"port {self._port} of {HOST} is in use: stop what uses it or choose another port"
            )
        if self._port:
            return self._port
        return previous if previous and _is_free(previous) else _free_port()

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


# What a single small node needs, and what makes it quick to start and to rebalance.
_DEVELOPER_PROPERTIES: Final = {
    "auto.create.topics.enable": "false",
    "num.partitions": "4",
    "message.max.bytes": str(max(limits.MESSAGE_BYTES_MAX, 1_048_588)),
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "8",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "8",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    # A killed broker may register again only when its last session has expired.
    "broker.session.timeout.ms": "4000",
    "broker.heartbeat.interval.ms": "1000",
    "num.network.threads": "2",
    "num.io.threads": "4",
    # The default of 128 MiB would be a sixth of the heap.
    "log.cleaner.dedupe.buffer.size": str(32 * 1024 * 1024),
}


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the broker does: a port whose last connections linger in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _free_port() -> int:
    for port in random.SystemRandom().sample(PORTS, 100):
        if _is_free(port):
            return port
    raise EmbeddedKafkaError(f"no free port was found among {PORTS.start} to {PORTS.stop - 1}")


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
