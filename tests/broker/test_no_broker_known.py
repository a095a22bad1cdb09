"""A broker that says for a moment that there is none: everything goes on when it knows better."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from streamsched import AsyncClient, Client
from streamsched.core.names import TopicNames
from streamsched.kafka.broker_node import free_port
from streamsched.kafka.embedded import EmbeddedKafka
from tests.broker.between import Between, between
from tests.broker.cluster import await_condition, create_topic
from tests.broker.installation import Installation, installed
from tests.broker.reading import job_id
from tests.broker.sending import Sender
from tests.connecting import client_options

pytestmark = pytest.mark.timeout(420)

DENIALS = 40
"""So many that each of a scheduler's clients that asks has heard one."""
TURNS = 3
"""Each time some of its clients forget, and others do not."""
LAST = "last"


@pytest.fixture
def said(tmp_path: Path) -> Iterator[Between]:
    """What is said between a Kafka of this test alone and all who come to it."""
    port = free_port()
    with between(port) as it:
        advertised = {"advertised.listeners": f"PLAINTEXT://{it.address}"}
        with EmbeddedKafka(tmp_path / "kafka", port, properties=advertised):
            yield it


def own_topic(it: Installation) -> str:
    """An ingress topic of a tenant's own."""
    return TopicNames(it.names.app_id, tenant_ingress=True).ingress("own")


class Workers:
    """Readers of one tenant's dispatched jobs through the SDK, each in a thread, up to `LAST`."""

    def __init__(self, it: Installation) -> None:
        """They begin at once: members of groups, one by itself, and one with asyncio."""
        self._it = it
        self._seen: list[Counter[str]] = []
        self._threads: list[threading.Thread] = []
        for group in ("one", "another", "third"):
            self._start(self._read, group)
        self._start(self._read, None)
        self._start(lambda seen, group: asyncio.run(self._read_on_loop(seen, group)), "fourth")

    def await_job(self, job: str) -> None:
        """Until each of them has read it."""
        await_condition(
            f"each has read {job}",
            lambda: all(job in seen for seen in self._seen),
            90,
            lambda: f"{self._seen}",
        )

    def await_end(self) -> None:
        """Until each has read `LAST`; the one by itself has read every job once."""
        self.await_job(LAST)
        for thread in self._threads:
            thread.join()
        assert set(self._seen[3].values()) == {1}

    def _start(self, read: Callable[[Counter[str], str | None], None], group: str | None) -> None:
        seen: Counter[str] = Counter()
        self._seen.append(seen)
        thread = threading.Thread(target=read, args=(seen, group), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _read(self, seen: Counter[str], group: str | None) -> None:
        with (
            Client(self._it.kafka, self._it.names.app_id) as client,
            client.dispatched("acme", group=group, from_beginning=True) as jobs,
        ):
            for job in jobs:
                seen[job.id] += 1
                if job.id == LAST:
                    return

    async def _read_on_loop(self, seen: Counter[str], group: str | None) -> None:
        async with (
            AsyncClient(self._it.kafka, self._it.names.app_id) as client,
            client.dispatched("acme", group=group) as jobs,
        ):
            async for job in jobs:
                seen[job.id] += 1
                if job.id == LAST:
                    return


def test_all_goes_on_after_no_broker_was_known(said: Between, tmp_path: Path) -> None:
    """Librdkafka's clients forget every broker then, and some never ask again (its issue 5301)."""
    with installed(said.address, tmp_path, tenant_ingress="true") as it:
        create_topic(AdminClient(client_options(said.address)), own_topic(it))
        workers = Workers(it)
        it.sender.job("acme", "before")
        it.sender.record(b"own", b'{"id":"before","delay_ms":0,"payload":1}', topic=own_topic(it))
        it.sender.flush()
        it.dispatched("acme", 1)
        it.dispatched("own", 1)
        workers.await_job("before")

        for turn in range(TURNS):
            denials = said.denials
            said.deny()
            await_condition("all have heard it", lambda: said.denials >= denials + DENIALS)  # noqa: B023
            said.admit()
            job, rate = f"after-{turn}", f"{turn + 7}/s"
            sender = Sender(said.address, it.names)
            sender.settings("acme", rate=rate)
            sender.job("acme", job)
            sender.job(f"new-{turn}", job)
            value = b'{"id":"%s","delay_ms":0,"payload":1}' % job.encode()
            sender.record(b"own", value, topic=own_topic(it))
            sender.flush()
            for tenant, jobs in (("acme", turn + 2), ("own", turn + 2), (f"new-{turn}", 1)):
                assert job in {job_id(one) for one in it.dispatched(tenant, jobs)}
            it.process.await_tenant("acme", rate=rate)
            workers.await_job(job)
        sender.job("acme", LAST)
        sender.flush()
        workers.await_end()
