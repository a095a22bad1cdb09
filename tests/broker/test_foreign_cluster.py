"""A scheduler on somebody else's Kafka: auto-creation, codecs, quotas and racks."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from streamsched.core.limits import MESSAGE_BYTES_MAX
from streamsched.kafka.embedded import EmbeddedKafka
from tests.broker.cluster import await_condition, create_topic
from tests.broker.installation import installed
from tests.broker.reading import await_records, job_id
from tests.broker.scheduler_process import SchedulerProcess
from tests.broker.sending import Sender
from tests.broker.test_console_tools import run_tool

PARTITIONS = 2
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
"""In the order of their numbers in a batch of records."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """A broker with a platform group's choices: it creates whatever is asked for, in racks."""
    properties = {
        "auto.create.topics.enable": "true",
        "num.partitions": "7",
        "log.retention.hours": "1",
        "broker.rack": "east",
        "replica.selector.class": "org.apache.kafka.common.replica.RackAwareReplicaSelector",
    }
    folder = tmp_path_factory.mktemp("foreign")
    with EmbeddedKafka(folder, properties=properties) as running:
        yield running


@pytest.fixture
def admin(cluster: EmbeddedKafka) -> AdminClient:
    """An admin client on that broker."""
    return AdminClient({"bootstrap.servers": cluster.bootstrap_servers})


def _codecs(folder: Path, topic: str) -> set[str]:
    """The codecs of all batches of records that lie on the disk for `topic`.

    A batch: offset i64, length i32, epoch i32, magic i8, checksum i32, attributes i16, of which
    the last three bits are the codec.
    """
    found = set()
    for log in folder.glob(f"**/{topic}-[0-9]*/*.log"):
        data = log.read_bytes()
        while len(data) > 23 and (length := int.from_bytes(data[8:12])):
            attributes = int.from_bytes(data[21:23])
            if not attributes & 0x20:  # markers of transactions are never compressed
                found.add(CODECS[attributes & 7])
            data = data[12 + length :]
    return found


def test_scheduler_without_topics_makes_none(
    cluster: EmbeddedKafka, admin: AdminClient, app_id: str, tmp_path: Path
) -> None:
    """Where a broker creates what it is asked for, planning and starting ask for nothing."""
    process = SchedulerProcess(cluster.bootstrap_servers, app_id, tmp_path)
    process.start()
    assert process.wait_ended() == 1
    assert f"topic {app_id}.jobs is missing: run `streamsched topics apply`" in process.log()
    assert not [t for t in admin.list_topics(timeout=10).topics if t.startswith(app_id)]


def test_topics_are_ours_where_the_broker_would_make_others(
    cluster: EmbeddedKafka, admin: AdminClient, tmp_path: Path
) -> None:
    """Topics, those of new tenants too, have our partitions and limits, not the broker's."""
    with installed(cluster.bootstrap_servers, tmp_path, partitions=PARTITIONS) as it:
        it.sender.job("acme", "1")
        it.sender.flush()
        it.dispatched("acme", 1)
        topics = admin.list_topics(timeout=10).topics
        assert len(topics[it.names.jobs].partitions) == PARTITIONS
        assert len(topics[it.names.egress("acme")].partitions) == 1
        resources = [
            ConfigResource(ResourceType.TOPIC, name)
            for name in (it.names.egress("acme"), it.names.jobs)
        ]
        egress, jobs = [
            {name: entry.value for name, entry in f.result(10).items()}
            for f in admin.describe_configs(resources).values()
        ]
        assert egress["max.message.bytes"] == str(MESSAGE_BYTES_MAX)
        assert jobs["retention.ms"] == str(7 * 86_400_000)


def test_codecs_of_clients_and_topics(
    cluster: EmbeddedKafka, admin: AdminClient, tmp_path: Path
) -> None:
    """Jobs of every codec are read; the scheduler's own is used, and that of a topic wins."""
    address = cluster.bootstrap_servers
    with installed(address, tmp_path, partitions=PARTITIONS, kafka__compression_type="lz4") as it:
        create_topic(admin, it.names.egress("recoded"), 1, {"compression.type": "zstd"})
        ids = []
        for codec in CODECS:
            sender = Sender(address, it.names, compression_type=codec)
            for number in range(20):
                ids.append(f"{codec}-{number}")
                for tenant in ("acme", "recoded"):
                    sender.job(tenant, ids[-1], value=b"compress me " * 50)
            sender.flush()
        for tenant in ("acme", "recoded"):
            found = it.dispatched(tenant, len(ids))
            assert sorted(map(job_id, found)) == sorted(ids)
            assert {m.value() for m in found} == {b"compress me " * 50}
        folder = cluster.nodes[0].folder
        assert _codecs(folder, it.names.jobs) == set(CODECS)
        assert _codecs(folder, it.names.egress("acme")) == {"lz4"}
        assert _codecs(folder, it.names.egress("recoded")) == {"zstd"}


def test_client_in_a_rack(cluster: EmbeddedKafka, tmp_path: Path) -> None:
    """With the rack named, both clients work against a broker that chooses replicas by racks."""
    with installed(
        cluster.bootstrap_servers, tmp_path, partitions=PARTITIONS, kafka__client_rack="east"
    ) as it:
        it.sender.job("acme", "1")
        it.sender.flush()
        assert [job_id(m) for m in it.dispatched("acme", 1)] == ["1"]


# --- quotas --------------------------------------------------------------------------------


@pytest.fixture
def quota(cluster: EmbeddedKafka) -> Iterator[None]:
    """A quota on every client of the broker, taken away in the end."""
    config = ("kafka.admin.ConfigCommand", "--bootstrap-server", cluster.bootstrap_servers)
    names = {"producer_byte_rate": "100000", "consumer_byte_rate": "300000"}
    names |= {"request_percentage": "100"}
    entity = ("--alter", "--entity-type", "clients", "--entity-name", "throttled")
    added = ",".join(f"{name}={value}" for name, value in names.items())
    run_tool(*config, *entity, "--add-config", added)
    yield
    run_tool(*config, *entity, "--delete-config", ",".join(names))


@pytest.mark.timeout(240)
def test_throttled_scheduler_goes_on_and_says_so(
    cluster: EmbeddedKafka, quota: None, tmp_path: Path
) -> None:
    """Under a quota jobs leave later, each exactly once, and the log names the quota."""
    with installed(
        cluster.bootstrap_servers, tmp_path, partitions=PARTITIONS, kafka__client_id="throttled"
    ) as it:
        # Several seconds' worth of the quota, in a cycle or two.
        ids = [str(number) for number in range(1_000)]
        for job in ids:
            it.sender.job("acme", job, value=b"x" * 1_000)
        it.sender.flush()
        found = await_records(
            it.kafka, [it.names.egress("acme")], len(ids), seconds=150, tell=it.process.log
        )
        assert sorted(map(job_id, found)) == sorted(ids)
        await_condition(
            "the log tells of the quota",
            lambda: "slowed down by a quota" in it.process.whole_log(),
            tell=it.process.log,
        )
