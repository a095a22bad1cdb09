"""Clients in a rack on a cluster of three: they read from its replica, each job leaves once."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from streamsched import Client
from streamsched.kafka import admin as topics
from streamsched.kafka import broker_config
from streamsched.kafka.embedded import EmbeddedKafka
from tests.broker.cluster import await_condition, await_partitions
from tests.broker.installation import Installation, installed
from tests.broker.reading import await_records, job_id, read_topics
from tests.broker.sending import tenants_of

pytestmark = pytest.mark.timeout(300)

PARTITIONS = 3
TENANTS = [tenants_of(number, PARTITIONS, 1)[0] for number in range(PARTITIONS)]
"""One on each ingress partition."""
JOBS = 60
"""Of each tenant, each time."""
NEAR = 2
"""The node in the clients' rack."""
RACK = {"client.rack": f"rack-{NEAR}"}

Served = Counter[tuple[str, int, int]]
"""Bytes of records that went to a client, by topic, partition and node."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """Three nodes, each a rack of its own, which log every request that they have answered."""
    with pytest.MonkeyPatch.context() as patch:
        logged = broker_config.LOG_CONFIG.replace(
            "<Loggers>", '<Loggers><Logger name="kafka.request.logger" level="DEBUG"/>'
        )
        patch.setattr(broker_config, "LOG_CONFIG", logged)
        with EmbeddedKafka(tmp_path_factory.mktemp("racks"), nodes=3) as kafka:
            yield kafka


def served(cluster: EmbeddedKafka, admin: AdminClient, client_id: str, known: list[str]) -> Served:
    """What a client was given of topics, by the logs of the nodes."""
    # Kafka writes the base64 of ids for use in addresses.
    spelling = str.maketrans("+/", "-_", "=")
    ids = topics.topic_ids(admin, known)
    by_id = {topic_id.translate(spelling): topic for topic, topic_id in ids.items()}
    found: Served = Counter()
    for node in cluster.nodes:
        for log in node.folder.glob("server.log*"):
            for line in log.read_text("utf-8", "replace").splitlines():
                _, is_request, rest = line.partition("Completed request:")
                if not is_request or f'"clientId":"{client_id}"' not in rest:
                    continue
                request, _ = json.JSONDecoder().raw_decode(rest)
                if request["requestHeader"]["requestApiKeyName"] != "FETCH":
                    continue
                for answer in request["response"]["responses"]:
                    topic = answer.get("topic") or by_id.get(answer.get("topicId"), "")
                    for partition in answer["partitions"]:
                        size = partition.get("recordsSizeInBytes") or 0
                        found[topic, partition["partitionIndex"], node.node_id] += size
    return +found


def leaders(admin: AdminClient, topic: str) -> dict[int, int]:
    """The leader of each partition of a topic."""
    found = admin.list_topics(topic, timeout=20).topics[topic].partitions
    return {number: partition.leader for number, partition in found.items()}


def send(it: Installation, label: str, delay_ms: int = 0) -> list[str]:
    """Jobs of all tenants; their ids."""
    ids = [f"{label}-{number}" for number in range(JOBS)]
    for name in ids:
        for tenant in TENANTS:
            it.sender.job(tenant, f"{tenant} {name}", delay_ms=delay_ms)
    it.sender.flush()
    return [f"{tenant} {name}" for name in ids for tenant in TENANTS]


def test_clients_read_from_their_own_rack_and_each_job_leaves_once(
    cluster: EmbeddedKafka, tmp_path: Path
) -> None:
    """Ingress, changelog and egress from the near node, settings from their leader."""
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap_servers, "log_level": 0})
    with installed(
        cluster.bootstrap_servers,
        tmp_path,
        partitions=PARTITIONS,
        kafka__client_rack=RACK["client.rack"],
        kafka__client_id="scheduler",
    ) as it:
        names = it.names
        egress = [names.egress(tenant) for tenant in TENANTS]
        far = [NewTopic(topic, 1, replica_assignment=[[1, 2, 3]]) for topic in egress]
        for topic, done in admin.create_topics(far).items():
            done.result(20)
            await_partitions(admin, topic, 1)
        for tenant in TENANTS:
            it.sender.settings(tenant, burst=5)
        sent = [*send(it, "first"), *send(it, "kept", delay_ms=8_000)]
        await_records(it.kafka, egress, len(sent) // 2, tell=it.process.log)
        it.process.kill()
        shutil.rmtree(it.process.folder / "data")
        it.process.start()
        it.process.wait_ready()
        sent += send(it, "second")
        await_records(it.kafka, egress, len(sent), tell=it.process.log)

        with Client(it.kafka, names.app_id, {**RACK, "client.id": "worker"}) as client:
            got = []
            with client.dispatched(TENANTS[0], from_beginning=True, timeout=30) as jobs:
                for job in jobs:
                    got.append(job.id)
                    if len(got) == 3 * JOBS:
                        break
        assert sorted(got) == sorted(name for name in sent if name.startswith(f"{TENANTS[0]} "))

        known = [names.jobs, names.changelog, names.tenant_settings, *egress]
        to_scheduler = served(cluster, admin, "scheduler", known)
        to_worker = served(cluster, admin, "worker", known)
        for topic in (names.jobs, names.changelog):
            led = leaders(admin, topic)
            print(
                topic, "led by", led, {k[1:]: v for k, v in to_scheduler.items() if k[0] == topic}
            )
            for partition in led:
                assert to_scheduler[topic, partition, NEAR] > 0
        [leader] = leaders(admin, names.tenant_settings).values()
        settings = [key for key in to_scheduler if key[0] == names.tenant_settings]
        assert settings == [(names.tenant_settings, 0, leader)]
        print({key: value for key, value in to_worker.items() if key[0] == egress[0]})
        assert leaders(admin, egress[0]) == {0: 1}
        assert to_worker[egress[0], 0, NEAR] > 0

        found = Counter(map(job_id, read_topics(it.kafka, egress)))
        assert found == Counter(sent)
        await_condition("it is ready", it.process.is_ready, 30, it.process.log)
        assert "Traceback" not in it.process.whole_log()


def test_loss_of_the_near_node_holds_up_nobody(cluster: EmbeddedKafka, tmp_path: Path) -> None:
    """Reading goes on from other racks, and each job leaves once, also after the node is back."""
    near = cluster.nodes[NEAR - 1]
    with installed(
        cluster.bootstrap_servers,
        tmp_path,
        partitions=PARTITIONS,
        kafka__client_rack=RACK["client.rack"],
    ) as it:
        egress = [it.names.egress(tenant) for tenant in TENANTS]
        sent = send(it, "before")
        await_records(it.kafka, egress, len(sent), tell=it.process.log)
        near.kill()
        try:
            sent += send(it, "without")
            await_records(it.kafka, egress, len(sent), seconds=120, tell=it.process.log)
        finally:
            cluster.start_node(near)
        sent += send(it, "after")
        await_records(it.kafka, egress, len(sent), seconds=120, tell=it.process.log)
        assert Counter(map(job_id, read_topics(it.kafka, egress))) == Counter(sent)
