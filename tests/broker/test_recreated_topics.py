"""Topics of ours that are made anew under running schedulers: told at once, and never trusted."""

from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from streamsched.core.store import JOBS
from streamsched.kafka import admin as topics
from streamsched.store.rocks import RocksStore
from tests.broker.cluster import await_condition, delete_topic
from tests.broker.installation import Installation, installed, prepared, recreate
from tests.broker.scheduler_process import SchedulerProcess, events_named
from tests.broker.standing_by import await_followed, recoveries, sharing

PARTITIONS = 4
JOBS_PENDING = 40
HOUR_MS = 3_600_000
ENDED_SECONDS_MAX = 150.0
"""A topic that is gone is told of 25 s later, and each request that gets no answer begins anew."""


def hold(it: Installation, jobs: int) -> None:
    """Submit so many jobs that are due much later, and wait until they are pending."""
    for number in range(jobs):
        it.sender.job("acme", f"{number}", delay_ms=HOUR_MS)
    it.sender.flush()
    it.process.await_metric("streamsched_jobs_pending{", jobs)


def last_words(process: SchedulerProcess) -> str:
    """The one sentence with which it ends by itself."""
    assert process.wait_ended(ENDED_SECONDS_MAX) == 1, process.log()
    assert "Traceback" not in process.whole_log()
    # The client of the ingress has a line of its own for a topic that is not there.
    lines = [line for line in process.log_lines() if line["level"] in {"error", "critical"}]
    said = [str(line["event"]) for line in lines]
    said = [text for text in said if "not found in cluster metadata" not in text]
    assert len(said) == 1, process.whole_log()
    print(said[0])
    return said[0]


def pending(process: SchedulerProcess, app_id: str) -> int:
    """The jobs that lie in its folder."""
    found = 0
    for number in range(PARTITIONS):
        store = RocksStore(process.folder / "data" / app_id / f"{number}")
        found += sum(map(len, store.stretches(JOBS, 100)))
        store.close()
    return found


@pytest.mark.timeout(240)
def test_changelog_made_anew_ends_owners_and_standbys_and_their_state_stays(
    kafka: str, admin: AdminClient, tmp_path: Path
) -> None:
    """Each of two says what happened and what to do; no store is rebuilt from the new log."""
    with prepared(kafka, tmp_path / "a", partitions=PARTITIONS) as it:
        app_id, changelog = it.names.app_id, it.names.changelog
        both = it.process, it.process.another(tmp_path / "b")
        for number in range(JOBS_PENDING):
            it.sender.job(f"tenant-{number}", "a", delay_ms=HOUR_MS)
        it.sender.flush()
        with sharing(both, PARTITIONS):
            await_condition(
                "all jobs are pending",
                lambda: sum(p.metric("streamsched_jobs_pending{") for p in both) == JOBS_PENDING,
                60,
                both[1].log,
            )
            await_followed(both)
            before = [len(recoveries(process)) for process in both]
            was = topics.topic_ids(admin, [changelog])[changelog]
            recreate(it, admin, changelog)
            now = topics.topic_ids(admin, [changelog])[changelog]
            for process in both:
                said = last_words(process)
                assert f"topic {changelog} was deleted and made anew" in said
                assert f"its id was {was} and is {now} now" in said
                assert f"delete the consumer group {app_id!r}" in said
        for process, count in zip(both, before, strict=True):
            assert len(recoveries(process)) == count
            assert not events_named(process.log_lines(), "standby is rebuilt")
            assert not events_named(process.log_lines(), "local state is rebuilt")
            assert pending(process, app_id) == JOBS_PENDING


@pytest.mark.timeout(240)
def test_changelog_made_anew_under_load_is_told_without_a_traceback(
    kafka: str, admin: AdminClient, tmp_path: Path
) -> None:
    """Whoever commits to the new log finds it shorter than its own state, and knows why."""
    with installed(kafka, tmp_path, partitions=1) as it:
        hold(it, JOBS_PENDING)
        recreate(it, admin, it.names.changelog)
        it.sender.job("acme", "more", delay_ms=HOUR_MS)
        it.sender.flush()
        assert f"topic {it.names.changelog} was deleted and made anew" in last_words(it.process)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("jobs", [0, 3])
def test_ingress_made_anew_ends_a_scheduler(
    kafka: str, admin: AdminClient, tmp_path: Path, jobs: int
) -> None:
    """Whether or not it had read anything: the offsets of an unread topic do not tell."""
    with installed(kafka, tmp_path, partitions=1) as it:
        hold(it, jobs)
        recreate(it, admin, it.names.jobs)
        said = last_words(it.process)
        assert it.names.jobs in said
        # If it is there again before the reader has missed it, that finds the new one too short.
        if "the topic was recreated" not in said:
            assert f"topic {it.names.jobs} was deleted and made anew" in said
            assert f"delete the topic {it.names.changelog}" in said


@pytest.mark.timeout(240)
def test_changelog_that_stays_away_ends_a_scheduler(
    kafka: str, admin: AdminClient, tmp_path: Path
) -> None:
    """Deleted and not made anew, it is told of once it cannot be for a moment only."""
    with installed(kafka, tmp_path, partitions=1) as it:
        delete_topic(admin, it.names.changelog)
        said = last_words(it.process)
        assert f"topic {it.names.changelog} was deleted while this scheduler ran" in said
