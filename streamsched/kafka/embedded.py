"""A real Apache Kafka for development and tests, without Docker and without an installed Java.

Nodes that are broker and controller in one (KRaft), as child processes that never outlive their
parent. With three or more of them every record is on three, and two must have it before it
counts; one node has one replica of everything. Speed is that of one machine in either case.
"""

import contextlib
import fcntl
import logging
import math
import time
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from streamsched.kafka import jars
from streamsched.kafka.broker_config import HOST, Voter
from streamsched.kafka.broker_node import (
    BrokerNode,
    EmbeddedKafkaError,
    free_port,
    is_free,
    new_cluster_id,
)
from streamsched.kafka.broker_security import ADMIN, BrokerSecurity
from streamsched.kafka.jars import Progress, kafka_tools_classpath, print_progress
from streamsched.kafka.signals import interrupted_by_signals

__all__ = ["EmbeddedKafka", "EmbeddedKafkaError", "kafka_tools_classpath", "run_foreground"]

CLIENT_SECONDS_MAX: Final = 3.0
"""How long one client looks for a node that starts. One may say that there are no brokers before
it is let in by its controller, and librdkafka's clients never ask again then (ADR 26)."""
START_SECONDS_MAX: Final = 120.0
PORT_ATTEMPTS: Final = 5
LOOK_SECONDS: Final = 0.5


class _PortTakenError(EmbeddedKafkaError):
    """Somebody took a port between our look and the broker's bind."""


class EmbeddedKafka:
    """A Kafka cluster under `data_dir`; `start()` it or use it as a context manager.

    `port` is that of the first node, and the others follow it; 0 takes free ones, and keeps them
    through `stop()` and `start()` of the same object. Nodes have the ids 1 to `nodes`, and each
    can be killed, suspended and stopped by itself; `start_node` starts it again. A `secure` one
    wants TLS and passwords, and allows only what an ACL does; see `client_options`, `add_user`.
    A `long_lived` one takes more CPU in its first minutes, and less from then on.
    `properties` are broker settings that go over the built-in ones. `progress` is told of slow
    steps. A folder that was used before goes on with the data that is in it.
    """

    def __init__(
        self,
        data_dir: Path,
        port: int = 0,
        nodes: int = 1,
        *,
        secure: bool = False,
        long_lived: bool = False,
        properties: Mapping[str, str] | None = None,
        progress: Progress = print_progress,
    ) -> None:
        if nodes < 1:
            raise EmbeddedKafkaError(f"{nodes} nodes were asked for: a cluster has at least one")
        self._data_dir = data_dir.absolute()
        self._port = port
        self._properties = dict(properties or {})
        self._progress = progress
        self._nodes = [
            BrokerNode(i, self._data_dir / f"node-{i}", long_lived=long_lived)
            for i in range(1, nodes + 1)
        ]
        self._lock: IO[str] | None = None
        self.security = BrokerSecurity(self._data_dir / "security") if secure else None
        """Its certificates and secrets, where it is a secured one."""

    @property
    def bootstrap_servers(self) -> str:
        """Addresses for clients, one of each node; only after `start()`."""
        return ",".join(f"{HOST}:{node.port}" for node in self._nodes)

    @property
    def client_options(self) -> dict[str, str]:
        """Options of a librdkafka client that may do everything; only after `start()`."""
        return {"bootstrap.servers": self.bootstrap_servers, **self._admin_options()}

    def add_user(self, user: str, password: str) -> dict[str, str]:
        """Let `user` come with `password`, who was not known or had another one; secured only.

        Returns the options of a client that is this user, who may do only what ACLs say.
        """
        assert self.security is not None, "only a secured Kafka knows users"
        peers = ",".join(f"{HOST}:{node.peer_port}" for node in self._nodes)
        self.security.set_password(peers, user, password)
        options = self.security.client_options(user, password)
        # The controller knows the user now; each broker may take a moment longer.
        self._await_ready(self._nodes, options)
        return {"bootstrap.servers": self.bootstrap_servers, **options}

    @property
    def nodes(self) -> Sequence[BrokerNode]:
        """The nodes, to kill, suspend or stop one of them."""
        return self._nodes

    def start_node(self, node: BrokerNode) -> None:
        """Start a node that was stopped or killed, with its folder and its ports, while others run.

        Returns once clients are told of it; raises `EmbeddedKafkaError`.
        """
        node.launch(self._classpath())
        self._await_ready([node], self._admin_options())

    def start(self) -> None:
        """Start and wait until it serves; raises `EmbeddedKafkaError` and leaves nothing behind."""
        classpath = self._classpath()
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
        _stop_all(self._nodes)
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
        deadline = time.monotonic() + timeout_seconds
        while all(not node.wait(0) for node in self._nodes):
            # One node is waited for exactly, several are looked at in turn.
            left_seconds = max(0.0, deadline - time.monotonic())
            look_seconds = left_seconds if len(self._nodes) == 1 else LOOK_SECONDS
            self._nodes[0].wait(min(left_seconds, look_seconds))
            if time.monotonic() >= deadline:
                return any(node.wait(0) for node in self._nodes)
        return True

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

    def _admin_options(self) -> dict[str, str]:
        security = self.security
        return security.client_options(ADMIN, security.password) if security else {}

    def _classpath(self) -> str:
        try:
            return jars.broker_classpath(self._progress)
        except jars.JarError as error:
            raise EmbeddedKafkaError(str(error)) from error

    def _acquire(self) -> None:
        """Make the folders and take the lock that keeps a second broker out of them."""
        try:
            for node in self._nodes:
                node.folder.mkdir(parents=True, exist_ok=True)
            lock = (self._data_dir / "lock").open("a")
            if self.security:
                self.security.prepare()
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
        cluster_id = self._cluster_id()
        taken: set[int] = set()
        for number, node in enumerate(self._nodes):
            node.port = self._choose_port(number, node.port, taken)
            taken.add(node.port)
            node.controller_port = free_port(taken)
            taken.add(node.controller_port)
            node.peer_port = free_port(taken)
            taken.add(node.peer_port)
        voters = [Voter(node.node_id, node.controller_port) for node in self._nodes]
        for node in self._nodes:
            node.configure(voters, self.security, self._properties)
        with ThreadPoolExecutor(len(self._nodes)) as pool:
            list(pool.map(lambda node: node.format(classpath, cluster_id), self._nodes))
        for node in self._nodes:
            node.launch(classpath)
        if self.security:
            self._await_ready(self._nodes, self.security.node_options(), to_peers=True)
            self.add_user(ADMIN, self.security.password)
            self.security.write_client_file(self.bootstrap_servers)
        else:
            self._await_ready(self._nodes, {})

    def _cluster_id(self) -> str:
        """The id of the cluster in the folder; refuses one with another number of nodes."""
        formatted = [cluster_id for node in self._nodes if (cluster_id := node.cluster_id())]
        count = self._data_dir / "nodes"
        # A folder without this file is of the time when there was one node.
        known = int(count.read_text("ascii")) if count.exists() else len(formatted[:1])
        if known not in (0, len(self._nodes)):
            raise EmbeddedKafkaError(
                f"data folder {self._data_dir} holds a cluster of {known} nodes, not of "
                f"{len(self._nodes)}: ask for {known}, name another folder or delete this one"
            )
        count.write_text(f"{len(self._nodes)}\n", "ascii")
        return formatted[0] if formatted else new_cluster_id()

    def _choose_port(self, number: int, previous: int, taken: AbstractSet[int]) -> int:
        port = self._port + number if self._port else 0
        if port and not is_free(port):
            raise EmbeddedKafkaError(
                f"port {port} of {HOST} is in use: stop what uses it or choose another port"
            )
        if port:
            return port
        return previous if previous and is_free(previous) else free_port(taken)

    def _await_ready(
        self, nodes: Sequence[BrokerNode], client: Mapping[str, str], *, to_peers: bool = False
    ) -> None:
        """Ask each of `nodes` for metadata with these options until all of them are in it."""
        wanted = {node.node_id for node in nodes}
        # librdkafka prints each refused connection to standard error unless it has a logger.
        silent = logging.getLogger("streamsched.kafka.embedded.readiness")
        silent.setLevel(logging.CRITICAL + 1)
        options = {"reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 200}
        deadline = time.monotonic() + START_SECONDS_MAX
        for node in nodes:
            # The node itself: others may still count on it as it was before it was killed.
            port = node.peer_port if to_peers else node.port
            address = {"bootstrap.servers": f"{HOST}:{port}"}
            made_at = -math.inf
            while True:
                if time.monotonic() - made_at > CLIENT_SECONDS_MAX:
                    admin = AdminClient({**address, **client, **options}, logger=silent)
                    made_at = time.monotonic()
                if _knows(admin, wanted):
                    break
                self._refuse_ended(nodes)
                if time.monotonic() > deadline:
                    raise EmbeddedKafkaError(
                        f"the embedded Kafka did not answer within {START_SECONDS_MAX:.0f} s; "
                        f"the end of its log:\n{node.log_tail()}"
                    )
                time.sleep(0.02)

    def _refuse_ended(self, nodes: Sequence[BrokerNode]) -> None:
        """Raise where one of `nodes` has ended while it started."""
        for node in nodes:
            if not node.running():
                tail = node.log_tail()
                taken = "Address already in use" in tail
                fault = "found its port in use" if taken else "ended while it started"
                text = f"the embedded Kafka {fault}; the end of its log:\n{tail}"
                _stop_all(nodes)
                raise _PortTakenError(text) if taken else EmbeddedKafkaError(text)


def _stop_all(nodes: Sequence[BrokerNode]) -> None:
    """Stop them at once: one after the other, the last would wait for a quorum to let it go."""
    for node in nodes:
        node.begin_stop()
    for node in nodes:
        node.stop()


def _knows(admin: AdminClient, node_ids: AbstractSet[int]) -> bool:
    with contextlib.suppress(KafkaException):
        return node_ids <= admin.list_topics(timeout=0.5).brokers.keys()
    return False


def run_foreground(
    data_dir: Path,
    port: int = 0,
    progress: Progress = print_progress,
    *,
    nodes: int = 1,
    secure: bool = False,
) -> None:
    """Run until SIGTERM or SIGINT; prints the bootstrap addresses on standard output once ready.

    Of a secured one `progress` is told the file with the settings for clients. Only from the main
    thread. Raises `EmbeddedKafkaError` when it cannot start or ends by itself.
    """
    kafka = EmbeddedKafka(data_dir, port, nodes, secure=secure, long_lived=True, progress=progress)
    with interrupted_by_signals():
        try:
            kafka.start()
            if kafka.security:
                progress(
                    f"settings for clients are in {kafka.security.client_file}: copy it to the "
                    "folder that they are started in"
                )
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
