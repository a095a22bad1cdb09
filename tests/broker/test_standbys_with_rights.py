"""Two schedulers with exactly the printed rights, each the other's standby, end and come back."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from streamsched.kafka.embedded import EmbeddedKafka
from tests.broker.flowing import Traffic
from tests.broker.reading import await_records, job_id, read_topics
from tests.broker.rightful import Rightful, prepared_with_rights
from tests.broker.scheduler_process import SchedulerProcess
from tests.broker.standing_by import await_followed, await_shared, sharing, take_over

pytestmark = pytest.mark.timeout(240)

PARTITIONS = 4
TENANTS = [f"tenant-{number}" for number in range(8)]
PERIOD_SECONDS = 0.1
PENDING = 2_000
DELAY_MS = 12_000
TAIL_RECORDS_MAX = 200
"""Far above what is committed between two reads of a follower, and below what is pending."""
TROUBLE = ("lacks", "uthoriz", "Traceback", "is rebuilt", "standby begins again")
"""What no log may say; the second is of Kafka's own words for a missing right."""


def test_each_job_leaves_once_through_takeovers_and_no_right_is_missed(
    secured: EmbeddedKafka, tmp_path: Path
) -> None:
    """Kill -9 of one and SIGTERM of the other, both come back: standbys, handovers, fencing."""
    with prepared_with_rights(
        Rightful(secured), tmp_path, partitions=PARTITIONS, standby_replicas="1"
    ) as (it, _):
        first, second = it.process, it.process.another(tmp_path / "second")

        def ended_in_order() -> None:
            assert second.terminate() == 0

        with sharing((first, second), PARTITIONS):
            for number in range(PENDING):
                tenant = TENANTS[number % len(TENANTS)]
                it.sender.job(tenant, f"pending-{number}", delay_ms=DELAY_MS)
            it.sender.flush()
            traffic = Traffic(it.sender.again(), TENANTS, PERIOD_SECONDS)
            try:
                await_followed((first, second))
                _take_over(first.kill, first, second)
                _take_over(ended_in_order, second, first)
            finally:
                traffic.stop()
            sent = Counter(
                [f"pending-{number}" for number in range(PENDING)]
                + [name for names in traffic.sent.values() for name in names]
            )
            egress = [it.names.egress(tenant) for tenant in TENANTS]
            await_records(it.kafka, egress, sent.total(), tell=first.log)
            found = Counter(job_id(message) for message in read_topics(it.kafka, egress))
            assert found == sent
            print(f"{sent.total()} jobs, each once")
            for process in (first, second):
                assert process.metric("streamsched_standby_failures_total") == 0
                said = process.whole_log()
                assert not [word for word in TROUBLE if word in said], said


def _take_over(end: Callable[[], None], ends: SchedulerProcess, stays: SchedulerProcess) -> None:
    """One ends, the other goes on from its standbys; it comes back, and they share again."""
    take_over(end, ends, stays, PARTITIONS, TAIL_RECORDS_MAX)
    ends.start()
    ends.wait_ready()
    await_shared((ends, stays), PARTITIONS)
    await_followed((ends, stays))
