"""Recovering on a real broker: what is shown of it, and local state that is of no use."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from streamsched.core import state
from streamsched.core.state import Position
from streamsched.core.store import META, Store
from streamsched.kafka import admin as topics
from streamsched.store.rocks import RocksStore
from tests.broker.cluster import await_condition
from tests.broker.installation import Installation, prepared
from tests.broker.scheduler_process import events_named
from tests.connecting import client_options

PARTITIONS = 1
PENDING = 400_000
HOUR_MS = 3_600_000


def write_changelog(it: Installation, admin: AdminClient, jobs: int) -> None:
    """What a scheduler would have left of so many pending jobs."""
    producer = Producer(
        {**client_options(it.kafka), "linger.ms": 50, "queue.buffering.max.messages": 1_000_000}
    )
    due_ms = time.time_ns() // 1_000_000 + HOUR_MS
    for number in range(jobs):
        row = state.encode_job(due_ms + number, number, 0, due_ms, number, 0, None, [], b"x" * 100)
        producer.produce(it.names.changelog, row, b"acme\x00%d" % number, 0)
    topic_id = topics.topic_ids(admin, [it.names.jobs])[it.names.jobs]
    position = state.encode_position(Position(0, due_ms - HOUR_MS, topic_id))
    producer.produce(it.names.changelog, position, state.POSITION_KEY, 0)
    assert producer.flush(60) == 0


@pytest.mark.timeout(240)
def test_progress_is_shown_while_a_partition_recovers(
    kafka: str, admin: AdminClient, tmp_path: Path
) -> None:
    """Metric, readiness page and log count down the records that are left, to nothing."""
    with prepared(kafka, tmp_path, partitions=PARTITIONS) as it:
        write_changelog(it, admin, PENDING)
        shown: list[int] = []
        gauge: list[int] = []
        it.process.start()

        def ready() -> bool:
            text = it.process.text_if_any("/readyz?verbose")
            shown.extend(
                int(n)
                for n in re.findall(r"^partition 0: .* (\d+) records left", text, re.MULTILINE)
            )
            text = it.process.text_if_any("/metrics")
            name = r"^streamsched_replay_records_left\{partition=\"0\"\} (\S+)$"
            gauge.extend(int(float(n)) for n in re.findall(name, text, re.MULTILINE))
            return it.process.is_ready()

        await_condition("it is ready", ready, 120, it.process.log)
        lines = events_named(it.process.log_lines(), "reading the changelog")
        assert {line["partition"] for line in lines} == {0}
        logged = [line["records_left"] for line in lines]
        print(sorted(set(shown)), sorted(set(gauge)), logged)
        assert logged == sorted(logged, reverse=True)
        # How many there are depends on how long it takes: one every two seconds, the first at once.
        assert 0 < logged[-1] <= logged[0] <= PENDING + 1
        for seen in (shown, gauge):
            assert seen == sorted(seen, reverse=True)
            assert len({left for left in seen if 0 < left <= PENDING}) >= 2
        assert it.process.metric("streamsched_replay_records_left{") == 0
        it.process.await_metric("streamsched_jobs_pending{", PENDING)
        assert it.process.metric("streamsched_recovery_records{") == PENDING + 1
        assert it.process.metric("streamsched_recovery_seconds{") > 0


def ahead(store: Store) -> None:
    """Pretend to have read what the log does not have."""
    value = store.get(META, state.CHANGELOG_KEY)
    assert value is not None
    offset, topic_id = state.decode_changelog_offset(value)
    row = state.encode_changelog_offset(offset + 1_000, topic_id)
    store.write([(META, state.CHANGELOG_KEY, row)])


def old(store: Store) -> None:
    """Pretend to be of yesterday, with some of the log still to be read."""
    value, place = store.get(META, state.CHANGELOG_KEY), store.get(META, state.POSITION_KEY)
    assert value is not None
    assert place is not None
    offset, topic_id = state.decode_changelog_offset(value)
    position = state.decode_position(place)
    position = position._replace(now_ms=position.now_ms - 24 * HOUR_MS)
    store.write(
        [
            (META, state.CHANGELOG_KEY, state.encode_changelog_offset(offset - 5, topic_id)),
            (META, state.POSITION_KEY, state.encode_position(position)),
        ]
    )


def unfinished(store: Store) -> None:
    """Pretend that a rebuild was cut short."""
    store.write([(META, state.CHANGELOG_KEY, None)])


UNFIT: dict[str, tuple[Callable[[Store], None] | None, str]] = {
    "ahead of the log": (ahead, "ahead of the changelog"),
    "old": (old, "missed tombstones"),
    "damaged": (None, "is damaged"),
    "unfinished": (unfinished, ""),
}


@pytest.mark.timeout(240)
def test_local_state_that_is_of_no_use_is_rebuilt(
    kafka: str, admin: AdminClient, tmp_path: Path
) -> None:
    """Whatever is wrong with it is said, and all jobs are there again, read from the log."""
    jobs = 50
    with prepared(kafka, tmp_path, partitions=PARTITIONS) as it:
        for number in range(jobs):
            it.sender.job("acme", f"{number}", delay_ms=HOUR_MS)
        it.sender.flush()
        it.process.start()
        it.process.wait_ready()
        it.process.await_metric("streamsched_jobs_pending{", jobs)
        assert it.process.terminate() == 0
        path = it.process.folder / "data" / it.names.app_id / "0"
        for name, (spoil, reason) in UNFIT.items():
            if spoil is None:
                (path / "CURRENT").write_bytes(b"garbage")
            else:
                store = RocksStore(path)
                spoil(store)
                store.close()
            before = len(it.process.whole_log())
            it.process.start()
            it.process.wait_ready()
            it.process.await_metric("streamsched_jobs_pending{", jobs)
            text = it.process.whole_log()[before:]
            lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
            said = [line["reason"] for line in lines if line["event"] == "local state is rebuilt"]
            print(name, said)
            assert len(said) == bool(reason), text
            assert all(reason in sentence for sentence in said)
            assert it.process.metric("streamsched_recovery_records{") >= jobs
            assert it.process.terminate() == 0
        it.process.start()
        it.process.wait_ready()
        assert it.process.metric("streamsched_recovery_records{") == 0
