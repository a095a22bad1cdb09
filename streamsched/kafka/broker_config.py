"""What a node of the embedded Kafka is configured with: written anew at each start."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple
from xml.sax.saxutils import escape

from streamsched.core import limits
from streamsched.kafka.jars import QUICK_COMPILER

HOST: Final = "127.0.0.1"
REPLICAS_MAX: Final = 3

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

# What a small node needs, and what makes it quick to start and to rebalance.
DEVELOPER_PROPERTIES: Final = {
    "auto.create.topics.enable": "false",
    "num.partitions": "4",
    "message.max.bytes": str(max(limits.MESSAGE_BYTES_MAX, 1_048_588)),
    "offsets.topic.num.partitions": "8",
    "transaction.state.log.num.partitions": "8",
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


class Voter(NamedTuple):
    """A node as the other nodes' controllers find it."""

    node_id: int
    controller_port: int


def jvm_flags(nodes: int, *, long_lived: bool) -> tuple[str, ...]:
    """Flags of Java for one of so many nodes, which share memory and cores of a machine.

    Compiling for the long run takes more than a third of a starting node's CPU time. That pays
    for a single one which is `long_lived`.
    """
    # Without this much room for classes from the start, making room for more is a full collection.
    common = (
        "-XX:MetaspaceSize=96m",
        "-XX:+ExitOnOutOfMemoryError",
        "-Djava.awt.headless=true",
    )
    if nodes > 1:
        return ("-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", QUICK_COMPILER, *common)
    # As Kafka's own scripts have it: the serial collector's pauses are acknowledgements that come
    # 30 to 150 ms late.
    one = ("-Xms256m", "-Xmx768m", "-XX:+UseG1GC", *common)
    return one if long_lived else (QUICK_COMPILER, *one)


def plain_properties(port: int, controller_port: int) -> dict[str, str]:
    """Listeners that ask nobody who they are; nodes come to each other where clients come."""
    clients = f"PLAINTEXT://{HOST}:{port}"
    return {
        "listeners": f"{clients},CONTROLLER://{HOST}:{controller_port}",
        "advertised.listeners": clients,
    }


def replication_properties(nodes: int) -> dict[str, str]:
    """Every record on as many nodes as there are, three at most; of three, two must have it."""
    replicas = str(min(nodes, REPLICAS_MAX))
    in_sync = "2" if nodes >= REPLICAS_MAX else "1"
    return {
        "default.replication.factor": replicas,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": replicas,
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": in_sync,
        "share.coordinator.state.topic.replication.factor": replicas,
        "share.coordinator.state.topic.min.isr": in_sync,
    }


def rack_properties(node_id: int, nodes: int) -> dict[str, str]:
    """Of several nodes each is a rack of its own, and clients may read from that of their own."""
    if nodes == 1:
        return {}
    return {
        "broker.rack": f"rack-{node_id}",
        "replica.selector.class": "org.apache.kafka.common.replica.RackAwareReplicaSelector",
    }


def quorum_properties(voters: Sequence[Voter]) -> dict[str, str]:
    """How controllers find each other.

    The voters of several nodes stand in the configuration, because ports on a developer's machine
    change from start to start. Those in the metadata log would not follow: a quorum in which
    every address is out of date never meets again.
    """
    addresses = [f"{HOST}:{voter.controller_port}" for voter in voters]
    if len(voters) == 1:
        return {"controller.quorum.bootstrap.servers": addresses[0]}
    pairs = zip(voters, addresses, strict=True)
    named = ",".join(f"{voter.node_id}@{address}" for voter, address in pairs)
    return {
        "controller.quorum.voters": named,
        # Three nodes start at once on a few cores, and the first vote may wait for the last one.
        "controller.quorum.election.timeout.ms": "2000",
        "controller.quorum.fetch.timeout.ms": "4000",
    }


def properties_text(properties: Mapping[str, str]) -> str:
    """The text of a Java properties file."""
    # A backslash begins an escape there.
    return "".join(f"{name}={value}\n".replace("\\", "\\\\") for name, value in properties.items())


def log_config_text(log: Path) -> str:
    """Log4j's configuration for a log of bounded size at `log`."""
    return LOG_CONFIG.format(log=escape(str(log)))
