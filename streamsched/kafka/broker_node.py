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
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final

from streamsched.kafka import guardian, jars
from streamsched.kafka.broker_config import (
    DEVELOPER_PROPERTIES,
    HOST,
    Voter,
    jvm_flags,
    log_config_text,
    plain_properties,
    properties_text,
    quorum_properties,
    rack_properties,
    replication_properties,
)
from streamsched.kafka.broker_security import BrokerSecurity

FORMAT_SECONDS_MAX: Final = 60.0
KILL_SECONDS_MAX: Final = 10.0
LOG_TAIL_LINES: Final = 25

# Below the range from which Linux and macOS take ports for outgoing connections, so that
# nobody takes a port by chance between our look and the broker's bind.
PORTS: Final = range(20_000, 32_000)


class EmbeddedKafkaError(Exception):
    """The embedded Kafka cannot run; the text begins with one sentence for the user."""


class BrokerNode:
    """One broker process and its folder."""

    def __init__(self, node_id: int, folder: Path, *, long_lived: bool) -> None:
        self.node_id = node_id
        self.folder = folder
        self.port = 0
        self.peer_port = 0
        self.controller_port = 0
        self._nodes = 1
        self._long_lived = long_lived
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def _properties(self) -> Path:
        return self.folder / "server.properties"

    @property
    def _log_config(self) -> Path:
        return self.folder / "log4j2.xml"

    @property
    def _data(self) -> Path:
        return self.folder / "log"

    @property
    def _log(self) -> Path:
        return self.folder / "server.log"

    @property
    def _output(self) -> Path:
        return self.folder / "output.log"

    def configure(
        self, voters: Sequence[Voter], security: BrokerSecurity | None, extra: Mapping[str, str]
    ) -> None:
        """Write the configuration of a node among `voters`; `extra` goes over what is usual."""
        listeners = (
            plain_properties(self.port, self.controller_port)
            if security is None
            else security.properties(self.port, self.peer_port, self.controller_port)
        )
        properties = {
            "process.roles": "broker,controller",
            "node.id": str(self.node_id),
            **listeners,
            "controller.listener.names": "CONTROLLER",
            "log.dir": str(self._data),
            **DEVELOPER_PROPERTIES,
            **replication_properties(len(voters)),
            **rack_properties(self.node_id, len(voters)),
            **quorum_properties(voters),
            **extra,
        }
        self._nodes = len(voters)
        self._properties.write_text(properties_text(properties), "utf-8")
        self._log_config.write_text(log_config_text(self._log), "utf-8")

    def cluster_id(self) -> str | None:
        """The cluster that the folder belongs to; `None` for one that was not formatted yet."""
        try:
            lines = (self._data / "meta.properties").read_text("utf-8").splitlines()
        except OSError:
            return None
        return dict(line.split("=", 1) for line in lines if "=" in line).get("cluster.id")

    def format(self, classpath: str, cluster_id: str) -> None:
        """Write the identity of cluster and node into an empty folder; harmless when done."""
        if self.cluster_id() is not None:
            return
        alone = ["--standalone"] if self._nodes == 1 else []
        command = [
            *(jars.java(), "-XX:+UseSerialGC", jars.QUICK_COMPILER, "-Dlog4j2.level=OFF"),
            *("-cp", classpath, "kafka.tools.StorageTool", "format", *alone),
            *("-t", cluster_id, "-c", str(self._properties)),
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

    def launch(self, classpath: str) -> None:
        """Start the process on what was configured and formatted; it is not ready yet."""
        self._log.unlink(missing_ok=True)
        guard = [sys.executable, "-I", "-S", guardian.__file__]
        java = [
            *(jars.java(), *jvm_flags(self._nodes, long_lived=self._long_lived)),
            f"-Dlog4j2.configurationFile={self._log_config}",
            *("-cp", classpath, "kafka.Kafka", str(self._properties)),
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

    def suspend(self) -> None:
        """Stop its process where it stands (SIGSTOP), until `resume`, `stop` or `kill`."""
        if self._process is not None:
            self._process.send_signal(guardian.SUSPEND)

    def resume(self) -> None:
        """Let a suspended process go on (SIGCONT)."""
        if self._process is not None:
            self._process.send_signal(guardian.RESUME)

    def begin_stop(self) -> None:
        """Ask it to end in order; `stop` waits for that."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def stop(self) -> None:
        """End it in order, by force when it takes too long."""
        if self._process is None:
            return
        self.begin_stop()
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


def free_port(taken: AbstractSet[int] = frozenset()) -> int:
    """A port that nobody listens on at the moment and that is none of `taken`."""
    for port in random.SystemRandom().sample(PORTS, 100):
        if port not in taken and is_free(port):
            return port
    raise EmbeddedKafkaError(f"no free port was found among {PORTS.start} to {PORTS.stop - 1}")
