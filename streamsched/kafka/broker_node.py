"""One Kafka broker and controller as a child process, with its configuration and its folder.

<folder>/server.properties, log4j2.xml      written at each start
<folder>/log/                               Kafka's data
<folder>/server.log, output.log             the broker's log of this start, and what Java said
"""

import base64
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

from streamsched.core import limits
from streamsched.kafka import guardian, jars

HOST: Final = "127.0.0.1"
FORMAT_SECONDS_MAX: Final = 60.0
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

# What a single small node needs, and what makes it quick to start and to rebalance.
DEVELOPER_PROPERTIES: Final = {
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


class EmbeddedKafkaError(Exception):
    """The embedded Kafka cannot run; the text begins with one sentence for the user."""


class BrokerNode:
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
            "log.dir": str(self.folder / "log"),
            **DEVELOPER_PROPERTIES,
            **extra,
        }
        path = self.folder / "server.properties"
        # A backslash begins an escape in Java's properties.
        lines = [f"{name}={value}\n".replace("\\", "\\\\") for name, value in properties.items()]
        path.write_text("".join(lines), "utf-8")
        log_config = self.folder / "log4j2.xml"
        log_config.write_text(LOG_CONFIG.format(log=escape(str(self._log))), "utf-8")
        return path

    def format(self, classpath: str, properties: Path, cluster_id: str) -> None:
        """Write the identity of cluster and node into an empty folder; harmless when done."""
        if (self.folder / "log" / "meta.properties").exists():
            return
        command = [
            *(jars.java(), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dlog4j2.level=OFF"),
            *("-cp", classpath, "kafka.tools.StorageTool", "format", "--standalone"),
            *("-t", cluster_id, "-c", str(properties)),
        ]
        with self._output.open("w+b") as output:
            try:
                done = subprocess.run(
                    command,
                    check=False,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    timeout=FORMAT_SECONDS_MAX,
                )
                fault = "" if done.returncode == 0 else "could not be formatted"
            except subprocess.TimeoutExpired:
                fault = f"was not formatted within {FORMAT_SECONDS_MAX:.0f} s"
        if fault:
            raise EmbeddedKafkaError(
                f"data folder {self.folder} {fault}: delete it and start again\n{self.log_tail()}"
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
        while not is_free(self.port) and time.monotonic() < deadline:
            time.sleep(0.01)

    def log_tail(self) -> str:
        """The last lines that the broker wrote."""
        lines: list[str] = []
        for path in (self._log, self._output):
            with contextlib.suppress(OSError):
                lines += path.read_text("utf-8", "replace").splitlines()[-LOG_TAIL_LINES:]
        return "\n".join(lines)


def new_cluster_id() -> str:
    """A random cluster id as Kafka spells them: a UUID in 22 characters of URL-safe base64."""
    random_bytes = bytearray(uuid.uuid4().bytes)
    # A leading hyphen would be taken for an option of the command that formats.
    random_bytes[0] &= 0x7F
    return base64.urlsafe_b64encode(random_bytes).decode().rstrip("=")


def is_free(port: int) -> bool:
    """Whether a broker could listen on `port`."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the broker does: a port whose last connections linger in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    for port in random.SystemRandom().sample(PORTS, 100):
        if is_free(port):
            return port
    raise EmbeddedKafkaError(f"no free port was found among {PORTS.start} to {PORTS.stop - 1}")
