"""The Faust frame on a real Kafka, with owners that only record what they are given."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from streamsched.core.limits import CYCLE_BYTES_MAX
from streamsched.core.names import TopicNames
from streamsched.engine.reader import RECORDS_PER_STEP
from tests.broker.cluster import await_condition
from tests.broker.frame_worker import HANG_VARIABLE
from tests.connecting import client_options, settings_variables

PARTITIONS = 4
PATIENCE_SECONDS = 40.0
ROOT = Path(__file__).parents[2]
Event = dict[str, Any]


class Worker:
    """A `frame_worker` process and the events it told so far."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self.log = log
        self.events: list[Event] = []
        with log.open("w") as stderr:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if not line.startswith("{"):
                continue  # Faust's own command prints a banner.
            self.events.append(json.loads(line))

    def told(self, event: str) -> list[Event]:
        """All events of one kind, in order."""
        return [one for one in list(self.events) if one["event"] == event]

    def wait(self, what: str, holds: Callable[[], bool]) -> None:
        """Wait until `holds`, of this worker or of others; fail with the log of the process."""
        await_condition(
            what,
            holds,
            PATIENCE_SECONDS,
            lambda: f"{self.events[-20:]}\n{self.log.read_text()[-4000:]}",
        )

    def order(self, command: str, partition: int, offset: int | None = None) -> None:
        """Send a command and wait until it is done."""
        assert self.process.stdin is not None
        before = len(self.told("did"))
        line = {"command": command, "partition": partition, "offset": offset}
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()
        self.wait(f"answer to {command}", lambda: len(self.told("did")) > before)

    def owned(self) -> set[int]:
        """The partitions it has now."""
        owned: set[int] = set()
        for one in list(self.events):
            if one["event"] == "assigned":
                owned = set(one["partitions"])
            elif one["event"] == "revoked":
                owned = set()
        return owned

    def wait_owned(self, count: int) -> None:
        """Wait until it owns so many partitions, each sought."""
        self.wait(f"{count} partitions", lambda: len(self.owned()) == count)

    def chunks(self, partition: int) -> list[Event]:
        """The chunks delivered of one partition."""
        return [chunk for chunk in self.told("chunk") if chunk["partition"] == partition]

    def count(self, *partitions: int) -> int:
        """How many records were delivered of `partitions`."""
        return sum(chunk["count"] for p in partitions for chunk in self.chunks(p))

    def end(self, signum: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal and return the exit status."""
        self.process.send_signal(signum)
        return self.exit_status()

    def exit_status(self) -> int:
        """Wait for the end of the process."""
        status = self.process.wait(PATIENCE_SECONDS)
        self._listener.join(PATIENCE_SECONDS)
        return status

    def close(self) -> None:
        """Kill what is left."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


@pytest.fixture
def names(kafka: str, app_id: str, admin: AdminClient) -> TopicNames:
    """The topics of a scheduler, made."""
    del kafka
    made = TopicNames(app_id)
    create(admin, {made.jobs: PARTITIONS, made.changelog: PARTITIONS})
    return made


@pytest.fixture
def start(kafka: str, app_id: str, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Starts workers; they are killed when the test is over."""
    workers: list[Worker] = []

    def start_one(*, faust: bool = False, **environment: str) -> Worker:
        number = len(workers)
        runner = ["tests.broker.frame_worker"]
        if faust:
            runner = ["faust", "-A", "tests.broker.frame_worker", "worker", "--without-web"]
        settings = {
            **settings_variables(client_options(kafka)),
            "STREAMSCHED_APP_ID": app_id,
            "STREAMSCHED_DATA_DIR": str(tmp_path / f"data{number}"),
            **environment,
        }
        worker = Worker([sys.executable, "-m", *runner], settings, tmp_path / f"log{number}")
        workers.append(worker)
        return worker

    yield start_one
    for worker in workers:
        worker.close()


def create(admin: AdminClient, topics: dict[str, int]) -> None:
    """Create topics with so many partitions."""
    wanted = [NewTopic(name, count, 1) for name, count in topics.items()]
    for made in admin.create_topics(wanted).values():
        made.result(30)


def produce(kafka: str, topic: str, count: int, width: int = 250, **options: Any) -> Producer:
    """Spread `count` records of `width` bytes evenly over the partitions of `topic`."""
    producer = Producer(
        {
            **client_options(kafka),
            "linger.ms": 20,
            "queue.buffering.max.messages": 1_000_000,
            **options,
        }
    )
    if "transactional.id" in options:
        producer.init_transactions(30)
        producer.begin_transaction()
    for number in range(count):
        producer.produce(topic, value=str(number).rjust(width), partition=number % PARTITIONS)
    assert producer.flush(60) == 0
    return producer


def assert_continuous(chunks: list[Event], start: int = 0) -> None:
    """Every chunk starts where the one before ended, its records in order and inside."""
    for chunk in chunks:
        assert chunk["start"] == start
        assert chunk["ordered"]
        assert chunk["inside"]
        start = chunk["end"]


def test_every_record_is_delivered_once_and_in_order(
    kafka: str, names: TopicNames, start: Callable[..., Worker]
) -> None:
    """Four partitions with 400,000 records come in whole, continuous chunks."""
    total = 400_000
    produce(kafka, names.jobs, total)
    worker = start()
    worker.wait("all records", lambda: worker.count(0, 1, 2, 3) >= total)
    for partition in range(PARTITIONS):
        assert_continuous(worker.chunks(partition))
        assert worker.count(partition) == total // PARTITIONS
    seconds = worker.told("chunk")[-1]["at"] - worker.told("sought")[0]["at"]
    print(f"{total} records in {seconds:.2f} s, {total / seconds:.0f} a second")


def test_chunks_lead_past_aborted_records_and_markers(
    kafka: str, names: TopicNames, app_id: str, start: Callable[..., Worker]
) -> None:
    """Aborted records are left out, and the last chunk ends at the last stable offset."""
    produce(kafka, names.jobs, 400, **{"transactional.id": app_id}).commit_transaction(30)
    worker = start()
    worker.wait("seeks", lambda: len(worker.told("sought")) == PARTITIONS)
    worker.wait("the records", lambda: worker.count(0) == 100)
    produce(kafka, names.jobs, 400, **{"transactional.id": app_id}).abort_transaction(30)
    worker.order("ends", 0)
    worker.wait("ends", lambda: bool(worker.told("ends")))
    # 100 records and their marker, twice.
    assert worker.told("ends")[0]["end"] == 202
    worker.wait("the end", lambda: worker.chunks(0)[-1]["end"] == 202)
    assert worker.count(0) == 100
    assert_continuous(worker.chunks(0))


def test_a_partition_without_room_is_left_alone(
    kafka: str, names: TopicNames, start: Callable[..., Worker]
) -> None:
    """Only the full partition stops, and it goes on where it stopped once it has room."""
    worker = start()
    worker.wait("seeks", lambda: len(worker.told("sought")) == PARTITIONS)
    worker.order("full", 1)
    produce(kafka, names.jobs, 40_000)
    worker.wait("the other partitions", lambda: worker.count(0, 2, 3) == 30_000)
    # A chunk asked for before the order can still arrive, but no second one.
    assert len(worker.chunks(1)) <= 1
    worker.order("room", 1)
    worker.wait("the rest", lambda: worker.count(1) == 10_000)
    assert_continuous(worker.chunks(1))


def test_seek_delivers_again_from_there(
    kafka: str, names: TopicNames, start: Callable[..., Worker]
) -> None:
    """After a seek back, the partition is delivered from there on, the others go on untouched."""
    produce(kafka, names.jobs, 40_000)
    worker = start()
    worker.wait("all records", lambda: worker.count(0, 1, 2, 3) == 40_000)
    first = worker.chunks(2)
    worker.order("seek", 2, 5_000)
    worker.wait("records again", lambda: worker.count(2) == 15_000)
    assert_continuous(first)
    assert_continuous(worker.chunks(2)[len(first) :], start=5_000)
    assert worker.count(0, 1, 3) == 30_000


def test_seeks_in_full_flow_lose_and_repeat_nothing(
    kafka: str, names: TopicNames, start: Callable[..., Worker]
) -> None:
    """Chunks that were on their way at a seek are dropped; what follows is continuous."""
    worker = start()
    worker.wait("seeks", lambda: len(worker.told("sought")) == PARTITIONS)
    produce(kafka, names.jobs, 200_000)
    for _ in range(10):
        worker.order("seek", 3, 7)
    worker.wait("seeks", lambda: len(worker.told("sought")) == PARTITIONS + 10)
    last_seek = max(i for i, event in enumerate(worker.events) if event["event"] == "sought")

    def after() -> list[Event]:
        later = [e for e in worker.events[last_seek:] if e["event"] == "chunk"]
        return [chunk for chunk in later if chunk["partition"] == 3]

    worker.wait("the end", lambda: bool(after()) and after()[-1]["end"] == 50_000)
    # The seek itself can be told after the first chunk that follows it.
    assert_continuous(after(), start=after()[0]["start"])


def test_partitions_are_split_and_never_owned_twice(
    names: TopicNames, start: Callable[..., Worker]
) -> None:
    """A second worker gets half, after the first has given up all; SIGTERM gives them back."""
    del names
    first = start()
    first.wait_owned(PARTITIONS)
    second = start()
    second.wait_owned(PARTITIONS // 2)
    first.wait_owned(PARTITIONS // 2)
    assert first.owned() | second.owned() == set(range(PARTITIONS))
    assert not any(event["still_owned"] for event in first.told("revoked"))
    asked = time.monotonic()
    assert second.end() == 0
    first.wait_owned(PARTITIONS)
    seconds = first.told("assigned")[-1]["at"] - asked
    print(f"partitions were back {seconds:.2f} s after SIGTERM")
    assert_owned_by_one_at_a_time(first, second)


def assert_owned_by_one_at_a_time(*workers: Worker) -> None:
    """Replay the events of all workers in the order of their (system-wide) clock."""
    moves = [(e["at"], n, e) for n, worker in enumerate(workers) for e in worker.events]
    owners: dict[int, int] = {}
    for _, number, event in sorted(moves, key=lambda move: move[0]):
        if event["event"] == "revoked":
            for partition in event["partitions"]:
                assert owners.pop(partition) == number
        elif event["event"] == "assigned":
            for partition in event["partitions"]:
                assert partition not in owners
                owners[partition] = number


def test_a_worker_that_was_frozen_gives_up_its_partitions(
    names: TopicNames, start: Callable[..., Worker]
) -> None:
    """A worker that wakes up after the group has gone on revokes before it joins again."""
    del names
    first = start()
    first.wait_owned(PARTITIONS)
    first.process.send_signal(signal.SIGSTOP)
    second = start()
    second.wait_owned(PARTITIONS)
    first.process.send_signal(signal.SIGCONT)
    first.wait("its revocation", lambda: bool(first.told("revoked")))
    first.wait_owned(PARTITIONS // 2)
    second.wait_owned(PARTITIONS // 2)


def test_an_owner_that_never_gives_up_does_not_hold_up_the_group(
    names: TopicNames, start: Callable[..., Worker]
) -> None:
    """A revocation that hangs is abandoned, and both workers get their share."""
    del names
    first = start(**{HANG_VARIABLE: "revoke"})
    first.wait_owned(PARTITIONS)
    second = start()
    second.wait_owned(PARTITIONS // 2)
    first.wait_owned(PARTITIONS // 2)
    assert first.end() == 0


def test_a_failed_delivery_ends_the_process_and_frees_its_partitions(
    kafka: str, names: TopicNames, start: Callable[..., Worker]
) -> None:
    """The process exits with 1 and tells why once; another takes its partitions."""
    first = start()
    first.wait_owned(PARTITIONS)
    second = start()
    second.wait_owned(PARTITIONS // 2)
    first.wait_owned(PARTITIONS // 2)
    for partition in first.owned():
        first.order("fail", partition)
    produce(kafka, names.jobs, 400)
    assert first.exit_status() == 1
    assert first.log.read_text().count("told to fail") >= 1
    second.wait_owned(PARTITIONS)


def test_sigterm_while_starting_is_obeyed(names: TopicNames, start: Callable[..., Worker]) -> None:
    """A process that hangs in its start exits with 0 on SIGTERM."""
    del names
    worker = start(**{HANG_VARIABLE: "start"})
    worker.wait("start", lambda: bool(worker.told("start")))
    assert worker.end() == 0


def test_sigterm_while_connecting_is_obeyed(start: Callable[..., Worker]) -> None:
    """A process that waits for a broker that accepts and never answers exits with 0 on SIGTERM."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        worker = start(STREAMSCHED_BOOTSTRAP_SERVERS=f"127.0.0.1:{silent.getsockname()[1]}")
        connection, _ = silent.accept()
        with connection:
            assert worker.end() == 0


def test_chunks_are_bounded_by_their_bytes_unpacked(
    kafka: str, names: TopicNames, start: Callable[..., Worker]
) -> None:
    """What was compressed to a few KiB comes in chunks of about a cycle's bytes."""
    width, total = 100_000, PARTITIONS * 600
    produce(kafka, names.jobs, total, width, **{"compression.type": "zstd"})
    worker = start()
    worker.wait("all records", lambda: worker.count(0, 1, 2, 3) >= total)
    for partition in range(PARTITIONS):
        assert_continuous(worker.chunks(partition))
        assert worker.count(partition) == total // PARTITIONS
    fullest = max(chunk["count"] for chunk in worker.told("chunk"))
    assert fullest <= CYCLE_BYTES_MAX // width + RECORDS_PER_STEP


def test_faust_command_runs_the_same_app(
    kafka: str, names: TopicNames, start: Callable[..., Worker]
) -> None:
    """`faust -A … worker` reads the records, and SIGTERM ends it with 0."""
    produce(kafka, names.jobs, 4_000)
    worker = start(faust=True)
    worker.wait("all records", lambda: worker.count(0, 1, 2, 3) == 4_000)
    assert worker.end() == 0


def test_standbys_are_placed_with_another_worker(
    names: TopicNames, start: Callable[..., Worker]
) -> None:
    """With one standby replica, each partition's standby is where the partition is not."""
    del names
    replicas = {"STREAMSCHED_STANDBY_REPLICAS": "1"}
    first, second = start(**replicas), start(**replicas)

    def settled() -> bool:
        pair = [worker.told("assigned")[-1:] for worker in (first, second)]
        return all(one and set(one[0]["standbys"]) for one in pair) and all(
            len(worker.owned()) == PARTITIONS // 2 for worker in (first, second)
        )

    first.wait("standbys", settled)
    for mine, other in ((first, second), (second, first)):
        assert set(mine.told("assigned")[-1]["standbys"]) == other.owned()


def test_a_third_worker_gets_its_share(names: TopicNames, start: Callable[..., Worker]) -> None:
    """Beside two that have two partitions each it works on one of the four."""
    del names
    workers = [start(), start()]
    for worker in workers:
        worker.wait_owned(PARTITIONS // 2)
    workers.append(start())

    def shared() -> bool:
        owned = [worker.owned() for worker in workers]
        return sorted(map(len, owned)) == [1, 1, 2] and len(set().union(*owned)) == PARTITIONS

    workers[0].wait("even shares", shared)


def test_missing_topics_are_told_in_one_sentence(app_id: str, start: Callable[..., Worker]) -> None:
    """Without its topics a worker exits with 1, names the topic, and creates nothing."""
    worker = start()
    assert worker.exit_status() == 1
    assert_sentence(worker, f"topic {TopicNames(app_id).jobs} does not exist")


def test_unequal_partition_counts_are_refused(
    app_id: str, admin: AdminClient, start: Callable[..., Worker]
) -> None:
    """Ingress and changelog with different partition counts stop the start."""
    names = TopicNames(app_id)
    create(admin, {names.jobs: 2, names.changelog: 3})
    worker = start()
    assert worker.exit_status() == 1
    assert_sentence(worker, "must have equally many partitions")


def test_an_absent_broker_is_told_in_one_sentence(start: Callable[..., Worker]) -> None:
    """A worker that cannot reach Kafka exits with 1 and names the address."""
    worker = start(STREAMSCHED_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert worker.exit_status() == 1
    assert_sentence(worker, "cannot reach Kafka at 127.0.0.1:1")


def assert_sentence(worker: Worker, sentence: str) -> None:
    """The log says so, and shows no traceback."""
    text = worker.log.read_text()
    assert sentence in text
    assert "Traceback" not in text
