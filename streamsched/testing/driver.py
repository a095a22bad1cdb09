"""A partition without a broker: pipe records in, move the clock, read what comes out.

    driver = Driver()
    driver.set_tenant("acme", rate="2/s")
    driver.submit("acme", "a", due_at_ms=driver.now_ms + 1_000, payload=b"hello")
    driver.advance(1_000)
    [job] = driver.read_egress("acme")

The core that runs in here is the one that runs in production; only Kafka is missing. Times are
epoch milliseconds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from streamsched.core import headers as h
from streamsched.core.cycle import Chunk, Cycle, OutRecord
from streamsched.core.destinations import Destination, Problem
from streamsched.core.limits import MESSAGE_BYTES_MAX, REFUSED_REST_MS
from streamsched.core.names import DEFAULT_TENANT, TopicNames
from streamsched.core.partition import Partition
from streamsched.core.placement import partition_for
from streamsched.core.replay import Replay
from streamsched.core.settings_view import SettingsView
from streamsched.core.state import JobRow
from streamsched.core.store import Store
from streamsched.store.memory import MemoryStore

START_MS = 1_800_000_000_000
CYCLES_PER_STEP_MAX = 100_000

Headers = Sequence[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True)
class Record:
    """A record as a producer would send it to the ingress topic."""

    key: bytes | None = None
    value: bytes | None = b""
    headers: Headers | None = ()
    """`None` where the name of one is no UTF-8."""
    timestamp: int | None = None
    offset: int = -1


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Which records a broker refuses."""

    topic: str
    is_refused: Callable[[OutRecord], bool]
    of_topic: bool


class DriverDirectory:
    """Every topic exists and is good, until a test says otherwise."""

    def __init__(self) -> None:
        """Nothing was asked for yet."""
        self.version = 0
        self._topics: dict[str, Destination] = {}
        self._overrides: dict[str, Destination] = {}
        self._rests: dict[str, int] = {}

    def lookup(self, topic: str) -> Destination | None:
        """The topic as a broker would show it."""
        return self._overrides.get(topic) or self._topics.get(topic)

    def want(self, topic: str, partitions: int) -> None:
        """Create the topic at once."""
        self._topics.setdefault(topic, Destination(topic, partitions, MESSAGE_BYTES_MAX))
        self.version += 1

    def break_topic(self, topic: str, problem: Problem, detail: str = "") -> None:
        """Let the topic have a problem."""
        self._overrides[topic] = Destination(topic, 0, 0, problem, detail)
        self.version += 1

    def set_topic(self, topic: str, *, partitions: int = 1, max_message_bytes: int) -> None:
        """Let the topic be of a certain shape, without a problem."""
        self._overrides[topic] = Destination(topic, partitions, max_message_bytes)
        self.version += 1

    def refuse(self, topic: str, detail: str, until_ms: int) -> None:
        """Take the topic out of use until a moment: it looks good, but refuses records."""
        self._rests[topic] = until_ms
        self.break_topic(topic, Problem.REFUSES, detail)

    def look(self, now_ms: int) -> None:
        """Give topics that were refused another try when their time has come."""
        for topic, until_ms in list(self._rests.items()):
            if now_ms >= until_ms:
                del self._rests[topic]
                self.mend(topic)

    def mend(self, topic: str) -> None:
        """Take back `break_topic` and `set_topic`."""
        self._overrides.pop(topic, None)
        self.version += 1


class Driver:
    """One or more partitions of a scheduler under a clock that only moves by hand."""

    def __init__(
        self,
        *,
        partitions: int = 1,
        app_id: str = "streamsched",
        now_ms: int = START_MS,
        store: Callable[[int], Store] | None = None,
    ) -> None:
        """Start with empty topics. `store` makes the store of a partition (default: in memory)."""
        self.names = TopicNames(app_id)
        self.now_ms = now_ms
        self.view = SettingsView(self.names, complete=True)
        self.directory = DriverDirectory()
        self.log: list[OutRecord] = []
        """All records produced, in the order of their transactions."""
        self.cycles: list[Cycle] = []
        """All cycles that were committed."""
        self.aborted = 0
        """How many cycles were aborted because the broker refused records."""
        self._refusals: list[_Refusal] = []
        self.changelogs: list[list[tuple[bytes, bytes | None]]] = [[] for _ in range(partitions)]
        self._ingress: list[list[Record]] = [[] for _ in range(partitions)]
        self._make_store = store or (lambda _: MemoryStore())
        self._read_to: dict[str, int] = {}
        self.partitions = [
            self._open(p, partitions, self._make_store(p)) for p in range(partitions)
        ]
        self._wake_at_ms = [now_ms] * partitions
        self._directory_seen = [-1] * partitions

    def _open(self, number: int, partitions: int, store: Store) -> Partition:
        return Partition(number, partitions, self.names, store, self.view, self.directory)

    # --- input -----------------------------------------------------------------------------

    def pipe(self, record: Record, partition: int | None = None) -> tuple[int, int]:
        """Produce to the ingress topic, by the key's murmur2 unless `partition` says otherwise.

        Returns partition and offset. Nothing happens before the clock moves or `settle`.
        """
        if partition is None:
            partition = partition_for(record.key or b"", len(self.partitions))
        log = self._ingress[partition]
        timestamp = self.now_ms if record.timestamp is None else record.timestamp
        log.append(Record(record.key, record.value, record.headers, timestamp, len(log)))
        return partition, len(log) - 1

    def submit(
        self,
        tenant: str,
        job_id: str,
        *,
        due_at_ms: int | None = None,
        payload: bytes = b"{}",
        expires_at_ms: int | None = None,
        key: str | None = None,
        headers: Headers = (),
    ) -> tuple[int, int]:
        """Produce a job in header mode; without `due_at_ms` it is due now."""
        due_at_ms = self.now_ms if due_at_ms is None else due_at_ms
        marks: list[tuple[str, bytes | None]] = [
            (h.ID, job_id.encode()),
            (h.DUE_AT, b"%d" % due_at_ms),
        ]
        if expires_at_ms is not None:
            marks.append((h.EXPIRES_AT, b"%d" % expires_at_ms))
        if key is not None:
            marks.append((h.KEY, key.encode()))
        return self.pipe(Record(tenant.encode(), payload, [*headers, *marks]))

    def cancel(self, tenant: str, job_id: str) -> tuple[int, int]:
        """Produce a cancel: a null value under the job's id."""
        return self.pipe(Record(tenant.encode(), None, [(h.ID, job_id.encode())]))

    def set_tenant(self, tenant: str = DEFAULT_TENANT, **fields: Any) -> str:
        """Publish a settings record; returns why it is invalid, empty if it is not."""
        return self.pipe_settings(tenant.encode(), orjson.dumps(fields))

    def refuse_records(
        self, topic: str, is_refused: Callable[[OutRecord], bool], *, of_topic: bool = False
    ) -> None:
        """Let the broker refuse those records for `topic` of which `is_refused` says so.

        With `of_topic` in the way of a topic that is at fault itself: rights, size, timestamps.
        """
        self._refusals.append(_Refusal(topic, is_refused, of_topic))

    def take_records(self, topic: str) -> None:
        """Take back `refuse_records`."""
        self._refusals = [it for it in self._refusals if it.topic != topic]

    def unset_tenant(self, tenant: str = DEFAULT_TENANT) -> None:
        """Publish a tombstone for the tenant's settings."""
        self.pipe_settings(tenant.encode(), None)

    def pipe_settings(self, key: bytes | None, value: bytes | None) -> str:
        """Publish any record to the settings topic."""
        fault = self.view.feed(self.view.position, key, value)
        self._wake_at_ms = [self.now_ms] * len(self.partitions)
        return fault

    # --- the clock -------------------------------------------------------------------------

    def settle(self) -> None:
        """Run cycles at the present moment until nothing is left to do."""
        for _ in range(CYCLES_PER_STEP_MAX):
            stepped = [self._step(p) for p in range(len(self.partitions))]
            if not any(stepped):
                return
        raise RuntimeError(f"no rest after {CYCLES_PER_STEP_MAX} cycles at {self.now_ms}")

    def advance(self, milliseconds: int) -> None:
        """Move the clock on, running each cycle at the moment it asked to be woken."""
        end_ms = self.now_ms + milliseconds
        self.settle()
        while True:
            next_ms = min(self._wake_at_ms)
            if next_ms > end_ms:
                break
            self.now_ms = max(self.now_ms, next_ms)
            self.settle()
        self.now_ms = end_ms
        self._wake_at_ms = [min(at, end_ms) for at in self._wake_at_ms]
        self.settle()

    def run_once(self, partition: int = 0, *, records_max: int = 4_000) -> Cycle:
        """One cycle of one partition, committed; for tests that look at single steps."""
        it = self.partitions[partition]
        log = self._ingress[partition]
        first = it.next_offset
        records = log[first : first + records_max]
        chunk = Chunk(first, first + len(records), records) if records else None
        for _ in range(CYCLES_PER_STEP_MAX):
            self.directory.look(self.now_ms)
            self._directory_seen[partition] = self.directory.version
            cycle = it.run_once(self.now_ms, chunk)
            if not self._is_refused(it, cycle):
                break
        else:
            raise RuntimeError(f"refused {CYCLES_PER_STEP_MAX} times at {self.now_ms}")
        self._commit(partition, cycle)
        # After the clock went back, "at once" lies ahead of it.
        at_once = cycle.wake_at_ms <= cycle.now_ms
        self._wake_at_ms[partition] = self.now_ms if at_once else cycle.wake_at_ms
        return cycle

    def _is_refused(self, partition: Partition, cycle: Cycle) -> bool:
        """Whether the broker refused some of the cycle, which is then aborted."""
        refused = {
            refusal.topic: refusal
            for refusal in self._refusals
            if any(r.topic == refusal.topic and refusal.is_refused(r) for r in cycle.records)
        }
        for topic, refusal in refused.items():
            of_record = not refusal.of_topic
            if not partition.note_refusal(cycle, topic, "not taken", of_record=of_record):
                detail = "records for it are refused (not taken)"
                self.directory.refuse(topic, detail, cycle.now_ms + REFUSED_REST_MS)
        if refused:
            partition.abort(cycle)
            self.aborted += 1
        return bool(refused)

    def _step(self, partition: int) -> bool:
        """Run a cycle if there is reason to; returns whether there was."""
        it = self.partitions[partition]
        has_records = it.next_offset < len(self._ingress[partition])
        topics_changed = self._directory_seen[partition] != self.directory.version
        is_time = self._wake_at_ms[partition] <= self.now_ms
        if not (has_records or topics_changed or is_time):
            return False
        self.run_once(partition)
        return True

    def _commit(self, partition: int, cycle: Cycle) -> None:
        """What the engine does with a real broker: transaction first, then the store."""
        changelog = self.changelogs[partition]
        if cycle.needs_transaction:
            changelog.extend(cycle.changelog)
            for record in cycle.records:
                self._produce(record)
            self.partitions[partition].commit(cycle, len(changelog))
        else:
            self.partitions[partition].commit(cycle)
        self.cycles.append(cycle)

    def _produce(self, record: OutRecord) -> None:
        self.log.append(record)
        if record.topic == self.names.jobs:
            moved = Record(record.key, record.value, record.headers, record.timestamp_ms)
            self.pipe(moved, record.partition)

    # --- failures --------------------------------------------------------------------------

    def abort_once(self, partition: int = 0) -> Cycle:
        """Run a cycle whose transaction fails: nothing of it may be seen afterwards."""
        it = self.partitions[partition]
        log = self._ingress[partition]
        first = it.next_offset
        chunk = Chunk(first, len(log), log[first:]) if len(log) > first else None
        cycle = it.run_once(self.now_ms, chunk)
        it.abort(cycle)
        self._wake_at_ms[partition] = self.now_ms
        return cycle

    def restart(self, *, from_changelog: bool = False) -> None:
        """Open every partition again, from its store or from its changelog alone."""
        count = len(self.partitions)
        for number, old in enumerate(self.partitions):
            store = old.store
            if from_changelog:
                store = self._make_store(number)
                replay = Replay(store, "")
                replay.apply(self.changelogs[number], len(self.changelogs[number]))
                replay.finish()
            self.partitions[number] = self._open(number, count, store)
        self._wake_at_ms = [self.now_ms] * count

    # --- output ----------------------------------------------------------------------------

    def read(self, topic: str) -> list[OutRecord]:
        """The records produced to `topic` since the last call."""
        records = [record for record in self.log if record.topic == topic]
        first = self._read_to.get(topic, 0)
        self._read_to[topic] = len(records)
        return records[first:]

    def read_egress(self, tenant: str) -> list[OutRecord]:
        """The tenant's dispatched jobs since the last call, on its default topic."""
        return self.read(self.names.egress(tenant))

    def read_events(self) -> list[Mapping[str, Any]]:
        """The events since the last call."""
        return [orjson.loads(record.value or b"") for record in self.read(self.names.events)]

    def job(self, tenant: str, job_id: str) -> JobRow | None:
        """A pending job as its partition holds it, or `None`."""
        owner = partition_for(tenant.encode(), len(self.partitions))
        return self.partitions[owner].job(tenant, job_id)

    def pending(self, tenant: str) -> int:
        """How many jobs of the tenant are pending."""
        owner = partition_for(tenant.encode(), len(self.partitions))
        found = self.partitions[owner].tenants.get(tenant)
        return 0 if found is None else found.pending

    def status(self, tenant: str) -> str:
        """`ok`, `throttled`, `paused` or `unconfigured`."""
        owner = partition_for(tenant.encode(), len(self.partitions))
        found = self.partitions[owner].tenants.get(tenant)
        return "ok" if found is None else found.status()


def headers_of(record: OutRecord) -> dict[str, bytes | None]:
    """The record's headers by name; of repeated ones the last."""
    return dict(record.headers)
