"""A scheduler that stood still for less than its session lasts: it is still the owner."""

import signal
import time
from pathlib import Path

from tests.broker.cluster import await_condition
from tests.broker.installation import installed
from tests.broker.reading import job_id

STANDS_SECONDS = 4.5
"""Less than the session of 6 s."""
DUE_MS = 4_000


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
