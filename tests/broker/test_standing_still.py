"""A scheduler that stood still for less than its session lasts: it is still the owner."""

import signal
import time
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from tests.broker.cluster import await_condition
from tests.broker.installation import installed
from tests.broker.reading import job_id

STANDS_SECONDS = 4.5
"""Less than the session of 6 s."""
DUE_MS = 4_000
FETCH_SECONDS = 0.5
"""Longer than a fetch that was asked for waits on the broker, with a wide margin."""


def test_what_came_while_it_stood_still_is_heard_before_anything_leaves(
    kafka: str, tmp_path: Path
) -> None:
    """Jobs fell due meanwhile, but before that one tenant was paused and the other's cancelled."""
    with installed(kafka, tmp_path) as it:
        for tenant in ("paused", "cancels"):
            it.sender.job(tenant, "before")
        it.sender.flush()
        for tenant in ("paused", "cancels"):
            it.dispatched(tenant, 1)
            it.sender.job(tenant, "1", delay_ms=DUE_MS)
        it.sender.flush()
        for tenant in ("paused", "cancels"):
            it.process.await_tenant(tenant, pending=1)

        it.process.send(signal.SIGSTOP)
        goes_on_at = time.monotonic() + STANDS_SECONDS
        it.sender.settings("paused", paused=True)
        it.sender.cancel("cancels", "1")
        it.sender.flush()
        await_condition("the jobs are due", lambda: time.monotonic() > goes_on_at)
        it.process.send(signal.SIGCONT)

        it.process.await_tenant("paused", paused=True, pending=1)
        await_condition(
            "the cancel was heard",
            lambda: [event["event"] for event in it.events("cancels")] == ["cancelled"],
            60,
            lambda: f"{it.events('cancels')}",
        )
        it.sender.settings("paused", paused=False)
        it.sender.job("cancels", "after")
        it.sender.flush()
        assert [job_id(job) for job in it.dispatched("paused", 2)] == ["before", "1"]
        assert [job_id(job) for job in it.dispatched("cancels", 2)] == ["before", "after"]
        assert "this process stood still" in it.process.whole_log()


@pytest.mark.timeout(120)
def test_records_that_are_deleted_unread_end_it_with_a_sentence(
    kafka: str, admin: AdminClient, tmp_path: Path
) -> None:
    """Retention took what it was to read next: going on would hide that jobs are lost."""
    with installed(kafka, tmp_path, partitions=1) as it:
        it.sender.job("acme", "before")
        it.sender.flush()
        it.dispatched("acme", 1)
        it.process.send(signal.SIGSTOP)
        # The answer to the last fetch may already hold the first of these.
        until = time.monotonic() + FETCH_SECONDS
        while time.monotonic() < until:
            lost = it.sender.job("acme", "lost")
            it.sender.flush()
        end = TopicPartition(it.names.jobs, 0, (lost[0].offset() or 0) + 1)
        admin.delete_records([end])[end].result(10)
        it.process.send(signal.SIGCONT)
        assert it.process.wait_ended() == 1
        said = it.process.log()
        assert f"{it.names.jobs} partition 0 does not hold offset" in said
        assert "records expired unread" in said
        assert "Traceback" not in said
