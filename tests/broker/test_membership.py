"""Coming and going in the group: restarts in place, and rebalances one after the other."""

import asyncio
import random
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.group import LeaveGroupRequest
from confluent_kafka.admin import AdminClient

from streamsched.core.names import TopicNames
from streamsched.core.placement import partition_for
from streamsched.engine.kafka_options import aiokafka_options
from streamsched.kafka import admin as topics
from tests.broker.cluster import await_condition
from tests.broker.reading import await_records, job_id, read_topics
from tests.broker.scheduler_process import LogLine, SchedulerProcess, events_named, running
from tests.broker.sending import Sender
from tests.broker.standing_by import sharing
from tests.connecting import client_options, client_settings

PARTITIONS = 4
JOBS_AT_FIRST = 500
"""Of each tenant, before the rebalances: more than a thousand changelog records a partition."""

TAIL_RECORDS_MAX = 400
TROUBLE = ("is locked", "in use by another process", "standby begins again", "is rebuilt")
SESSION_SECONDS = 60
LEFT_SECONDS = 40
"""Well within the session, which a member that has not left is waited for."""


def owned(process: SchedulerProcess) -> set[int]:
    """The partitions that it was given last."""
    assigned = events_named(process.log_lines(), "partitions assigned")
    return set(assigned[-1]["partitions"]) if assigned else set()


@pytest.mark.timeout(240)
def test_static_member_restarts_in_place(kafka: str, app_id: str, tmp_path: Path) -> None:
    """It goes on with its partitions; the other member is not disturbed, and jobs leave once."""
    names = TopicNames(app_id)
    topics.apply(client_options(kafka), names, PARTITIONS)
    stays, restarts = (
        SchedulerProcess(
            kafka,
            app_id,
            tmp_path / name,
            group_instance_id=name,
            session_timeout_ms=f"{SESSION_SECONDS * 1_000}",
        )
        for name in ("a", "b")
    )
    with sharing((stays, restarts), PARTITIONS):
        before = len(events_named(stays.log_lines(), "partitions assigned"))
        own = owned(restarts)
        sender = Sender(kafka, names)
        tenants = [f"tenant-{number}" for number in range(12)]
        assert {partition_for(t.encode(), PARTITIONS) for t in tenants} == set(range(PARTITIONS))
        for ending in (restarts.terminate, restarts.kill):
            for tenant in tenants:
                sender.job(tenant, ending.__name__)
            sender.flush()
            ending()
            restarts.start()
            restarts.wait_ready()
            await_condition("it has its partitions", lambda: owned(restarts) == own, 60)
        egress = [names.egress(tenant) for tenant in tenants]
        await_records(kafka, egress, 2 * len(tenants), tell=restarts.log)
        assert len(read_topics(kafka, egress)) == 2 * len(tenants)
        assert len(events_named(stays.log_lines(), "partitions assigned")) == before


async def throw_out(kafka: str, group: str, member_id: str) -> None:
    """End a member's membership behind its back; it notices at its next heartbeat."""
    client = AIOKafkaClient(**aiokafka_options(client_settings(kafka)))
    await client.bootstrap()
    try:
        # The shared Kafka is one node, which coordinates every group.
        [node] = client.cluster.brokers()
        await client.send(node.nodeId, LeaveGroupRequest(group, member_id))
    finally:
        await client.close()


def members(client: AdminClient, group: str) -> list[str]:
    """Ids of the group's members, in order."""
    [answer] = client.describe_consumer_groups([group]).values()
    return sorted(member.member_id for member in answer.result(10).members)


@pytest.mark.timeout(900)
def test_rebalances_one_after_the_other_lose_nothing_and_lock_nothing(
    kafka: str,
    app_id: str,
    admin: AdminClient,
    tmp_path: Path,
    seed: int,
    pytestconfig: pytest.Config,
) -> None:
    """Stores are closed and opened again each time without a word; every job leaves once."""
    rebalances = pytestconfig.getoption("--rebalances")
    names = TopicNames(app_id)
    topics.apply(client_options(kafka), names, PARTITIONS)
    sender = Sender(kafka, names)
    tenants = [f"tenant-{number}" for number in range(8)]
    rng = random.Random(seed)
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                running(SchedulerProcess(kafka, app_id, tmp_path / name, life_seconds=1_200))
            )
            for name in ("a", "b")
        ]

        def log() -> str:
            return "".join(process.log() for process in processes)

        def assignments() -> list[int]:
            return [
                len(events_named(process.log_lines(), "partitions assigned"))
                for process in processes
            ]

        await_condition("both are members", lambda: len(members(admin, app_id)) == 2, 60, log)
        egress = [names.egress(tenant) for tenant in tenants]
        # So many that a changelog read again from its beginning stands out.
        for number in range(JOBS_AT_FIRST):
            for tenant in tenants:
                sender.job(tenant, f"{number}")
        sender.flush()
        await_records(kafka, egress, JOBS_AT_FIRST * len(tenants), seconds=120, tell=log)
        seen = [len(process.log_lines()) for process in processes]
        sent = JOBS_AT_FIRST
        while min(assignments()) < rebalances:
            for tenant in tenants:
                sender.job(tenant, f"{sent}")
            sender.flush()
            sent += 1
            before = assignments()
            asyncio.run(throw_out(kafka, app_id, rng.choice(members(admin, app_id))))
            await_condition(
                "both were given partitions anew",
                lambda before=before: (  # type: ignore[misc]
                    all(now > then for now, then in zip(assignments(), before, strict=True))
                    and len(members(admin, app_id)) == 2
                ),
                60,
                log,
            )
        records = await_records(kafka, egress, sent * len(tenants), seconds=120, tell=log)
        counted = sorted((str(m.topic()), int(job_id(m))) for m in records)
        assert counted == sorted((topic, number) for topic in egress for number in range(sent))
        print(f"seed {seed}: {assignments()} assignments, {len(records)} jobs")
        for process, lines in zip(processes, seen, strict=True):
            whole = process.whole_log()
            for trouble in TROUBLE:
                assert trouble not in whole, trouble
            tails = retained(process.log_lines(), lines)
            print(f"read again of retained partitions: {tails}")
            assert tails
            assert max(tails) <= TAIL_RECORDS_MAX
            assert process.terminate() == 0


def retained(lines: Sequence[LogLine], since: int) -> list[int]:
    """Changelog records that were read of partitions which stayed, in the lines from `since` on.

    A partition stayed if it is among those that the process was given this time and the time
    before.
    """
    before, now = set[int](), set[int]()
    found: list[int] = []
    for number, line in enumerate(lines):
        if line.get("event") == "partitions assigned":
            before, now = now, set(line["partitions"])
        stayed = line.get("event") == "partition recovered" and line["partition"] in before & now
        if stayed and number >= since:
            found.append(line["records"])
    return found


@pytest.mark.timeout(240)
def test_a_scheduler_that_is_told_to_end_leaves_the_group_at_once(
    kafka: str, app_id: str, tmp_path: Path
) -> None:
    """The other has all partitions long before the session of the one that ended is over."""
    names = TopicNames(app_id)
    topics.apply(client_options(kafka), names, PARTITIONS)
    stays = SchedulerProcess(
        kafka, app_id, tmp_path / "a", session_timeout_ms=f"{SESSION_SECONDS * 1_000}"
    )
    ends = stays.another(tmp_path / "b")
    with sharing((stays, ends), PARTITIONS):
        ends.send(signal.SIGTERM)
        await_condition(
            "the other owns all",
            lambda: owned(stays) == set(range(PARTITIONS)),
            LEFT_SECONDS,
            lambda: stays.log() + ends.log(),
        )
        assert ends.wait_ended() == 0
