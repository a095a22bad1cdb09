"""Jobs that flow while something is broken for one tenant: nobody else may notice."""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from confluent_kafka import Message

from streamsched.core.destinations import Problem
from tests.broker.cluster import await_condition
from tests.broker.installation import Installation
from tests.broker.reading import job_id, lateness_ms, read_events
from tests.broker.scheduler_process import events_named
from tests.broker.sending import Sender, tenants_of

PARTITIONS = 2
PERIOD_SECONDS = 0.02
LATENESS_MS_MAX = 10_000
"""How late a bystander's job may be: a transaction that fails with its abort takes a few seconds,
and one that nothing but a timeout of Kafka's ends takes ten and more."""
BYSTANDERS = tenants_of(0, PARTITIONS, 1, "neighbour") + tenants_of(1, PARTITIONS, 1, "neighbour")
"""One tenant on each ingress partition, so one of them shares its cycles with the broken one."""


class Traffic:
    """A steady flow of jobs, due at once, over some tenants; each job counted."""

    def __init__(
        self, sender: Sender, tenants: Sequence[str], period_seconds: float = PERIOD_SECONDS
    ) -> None:
        self.sent: dict[str, list[str]] = {tenant: [] for tenant in tenants}
        self._sender = sender
        self._period_seconds = period_seconds
        self._stopping = threading.Event()
        self._label = f"{time.time_ns()}"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._stopping.wait(self._period_seconds):
            for tenant, ids in self.sent.items():
                name = f"{self._label}-{number}"
                self._sender.job(tenant, name, value=b"x" * 300)
                ids.append(name)
            number += 1

    def stop(self) -> None:
        """End it, everything delivered."""
        self._stopping.set()
        self._thread.join()
        self._sender.flush()


@contextmanager
def flowing(
    it: Installation, *broken: str, lateness_ms_max: int = LATENESS_MS_MAX
) -> Iterator[Traffic]:
    """Traffic of the bystanders and of tenants that will be in trouble.

    In the end every job of all of them must have left exactly once, by its events, and those of
    the bystanders must be on their topics in the order in which they were sent, none later than
    `lateness_ms_max`.
    """
    tenants = [*BYSTANDERS, *broken]
    for tenant in tenants:
        it.sender.settings(tenant, events="all")
    it.sender.flush()
    for tenant in tenants:
        it.process.await_tenant(tenant, egress_topic=it.names.egress(tenant))
    traffic = Traffic(it.sender.again(), tenants)
    try:
        yield traffic
    finally:
        traffic.stop()
    for tenant in BYSTANDERS:
        sent = traffic.sent[tenant]
        found = arrived(it, tenant, sent)
        assert [job_id(message) for message in found] == sent
        print(f"{tenant}: {len(found)} jobs, longest lateness {longest(found)} ms")
        assert longest(found) <= lateness_ms_max, f"{tenant} was stopped"
    for tenant in broken:
        await_dispatched_once(it, tenant, traffic.sent[tenant])


def arrived(it: Installation, tenant: str, ids: list[str]) -> list[Message]:
    """The records of these jobs, once all of them are there."""
    mine = set(ids)
    return it.committed(it.names.egress(tenant), len(ids), lambda m: job_id(m) in mine)


def longest(found: list[Message]) -> int:
    """The longest lateness of dispatched jobs, in ms."""
    return max(lateness_ms(message) for message in found)


def dispatches(it: Installation, tenant: str) -> Counter[str]:
    """How often each job of a tenant was dispatched, by its events."""
    return Counter(
        event["id"]
        for event in read_events(it.kafka, it.names.events)
        if event["tenant"] == tenant and event["event"] == "dispatched"
    )


def await_dispatched_once(it: Installation, tenant: str, ids: list[str]) -> None:
    """Wait until every job has left, and see that none did twice."""
    await_condition(
        f"{len(ids)} jobs of {tenant} have left",
        lambda: set(ids) <= dispatches(it, tenant).keys(),
        60,
        it.process.log,
    )
    twice = {name: count for name, count in dispatches(it, tenant).items() if count > 1}
    assert not twice


def await_progress(it: Installation, traffic: Traffic, jobs: int = 25) -> None:
    """Wait until each bystander got that many jobs which were sent from now on."""
    start = {tenant: len(traffic.sent[tenant]) for tenant in BYSTANDERS}
    for tenant in BYSTANDERS:
        await_condition(
            "more was sent",
            lambda t=tenant: len(traffic.sent[t]) >= start[t] + jobs,  # type: ignore[misc]
        )
        fresh = traffic.sent[tenant][start[tenant] : start[tenant] + jobs]
        arrived(it, tenant, fresh)


def unconfigured(it: Installation, tenant: str, problem: Problem, detail: str) -> None:
    """Wait until the tenant is said to be unconfigured, for the right reason."""
    reason = {"text": ""}

    def is_so() -> bool:
        row = it.process.tenant(tenant)
        reason["text"] = str(row)
        return row.get("status") == "unconfigured" and detail in (row["reason"] or "")

    await_condition(
        f"{tenant} is unconfigured ({problem}): {detail}", is_so, 60, lambda: reason["text"]
    )
    told = {
        (line["problem"], f"{line['topic']} {line['detail']}")
        for line in events_named(it.process.log_lines(), "egress_topic_unusable")
    }
    assert [text for kind, text in told if kind == problem and detail in text], told
