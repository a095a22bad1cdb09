"""Reads the topics, and nothing else, and says what the scheduler did wrong.

What was accepted is told by the ingress topic, what became of it by all others, as a read_committed
consumer sees them. Only the settings are the world's own notes, because compaction takes them away.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from streamsched.core import headers as h
from streamsched.core import limiter, state
from streamsched.core.commands import Cancel
from streamsched.core.names import DEFAULT_TENANT
from streamsched.core.placement import partition_for
from streamsched.core.rate import Rate, parse_rate
from streamsched.core.rejection import Rejection
from streamsched.core.wire import decode
from tests.sim.clients import POISON
from tests.sim.host import START_MS
from tests.sim.log import Entry, PartitionLog
from tests.sim.store_checks import faults_of_store
from tests.sim.world import World

SETTLE_SECONDS = 2.0
"""How long after its publication a settings record may not be in force yet."""

MENDED_SECONDS = 20.0
"""How long after a topic takes records again jobs may leave before one that was set aside.

With jobs in it that are refused for good, others leave one by one, each at its tenant's rate.
"""

PERIODS = (1, 2, 3, 5, 10)


@dataclass(slots=True)
class Job:
    """One accepted command, and what became of it."""

    source: str
    tenant: str
    job_id: str
    sequence: int
    due_ms: int = 0
    expires_ms: int = 0
    key: bytes | None = None
    payload: bytes | None = b""
    headers: Any = ()
    is_cancel: bool = False
    ends: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Left:
    """One dispatch."""

    job: Job
    at_ms: int
    appended_at: float
    transaction: Any
    place: tuple[str, int]


class Judge:
    """Collects violations of one world into `found`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._names = world.names
        world.note_clocks()
        self.found: list[str] = list(world.faults_seen)
        self.jobs: dict[str, Job] = {}
        self._chains: dict[tuple[str, str], list[Job]] = defaultdict(list)
        self._rejected: Counter[str] = Counter()
        self._left: list[Left] = []
        self._positions: dict[Any, int] = {}
        self._misplaced: Counter[str] = Counter()
        self._moved: Counter[str] = Counter()

    def judge(self) -> list[str]:
        """Everything that is wrong at the end of a run."""
        self._read_ingress()
        self._read_positions()
        self._read_outputs()
        self._check_fates()
        self._check_order()
        self._check_rates()
        for partition in range(self._world.shape.partitions):
            self._check_rebuild(partition)
        return self.found

    def _say(self, what: str) -> None:
        self.found.append(what)

    # --- reading ---------------------------------------------------------------------------

    def _committed(self, topic: str) -> Iterator[tuple[PartitionLog, Entry]]:
        for log in self._world.broker.topics[topic].partitions:
            for entry in log.committed():
                yield log, entry

    def _read_ingress(self) -> None:
        """What was accepted, by the order of the partition that owns it."""
        partitions = self._world.shape.partitions
        for log, entry in self._committed(self._names.jobs):
            source = f"{log.partition}-{entry.offset}"
            command = decode(entry, self._world.now_ms())
            if isinstance(command, Rejection):
                self._rejected[source] += 1
                continue
            if command.moved is not None:
                moved = command.moved
                source = f"{moved.source_partition}-{moved.source_offset}"
                self._moved[source] += 1
            if partition_for(command.tenant.encode(), partitions) != log.partition:
                self._misplaced[source] += 1
                continue
            job = Job(source, command.tenant, command.job_id.decode(), entry.offset)
            if isinstance(command, Cancel):
                job.is_cancel = True
            else:
                job.due_ms, job.expires_ms = command.due_ms, command.expires_ms
                job.key, job.payload = command.key, command.payload
                job.headers = list(command.headers)
                if source in self.jobs:
                    self._say(f"job {source} was accepted twice")
                self.jobs[source] = job
            self._chains[job.tenant, job.job_id].append(job)
        if self._misplaced != self._moved:
            wrong = sorted(set((self._misplaced - self._moved) + (self._moved - self._misplaced)))
            self._say(f"misplaced records not moved exactly once: {wrong}")

    def _read_positions(self) -> None:
        """The ingress position that each transaction has reached; it must never go back."""
        for log in self._world.broker.topics[self._names.changelog].partitions:
            last = -1
            for entry in log.committed():
                if entry.key != state.POSITION_KEY or entry.value is None:
                    continue
                position = state.decode_position(entry.value).next_offset
                if position < last:
                    self._say(f"the position of partition {log.partition} went back to {position}")
                last = position
                if entry.transaction in self._positions:
                    self._say("a transaction has two positions")
                self._positions[entry.transaction] = position

    def _read_outputs(self) -> None:
        ours = {
            self._names.jobs,
            self._names.changelog,
            self._names.tenant_settings,
            self._names.rejected,
            self._names.dead_letters,
            self._names.events,
        }
        for topic in self._world.broker.topics:
            if topic not in ours:
                for log, entry in self._committed(topic):
                    self._read_dispatch(log, entry)
        rejects: Counter[str] = Counter()
        for _, entry in self._committed(self._names.rejected):
            marks = dict(entry.headers)
            partition = (marks[h.ERROR_PARTITION] or b"").decode()
            rejects[f"{partition}-{(marks[h.ERROR_OFFSET] or b'').decode()}"] += 1
        if rejects != self._rejected:
            self._say(f"rejected records {rejects} of {self._rejected}")
        letters: Counter[tuple[str, str]] = Counter()
        for _, entry in self._committed(self._names.dead_letters):
            marks = dict(entry.headers)
            source, code = marks[h.SOURCE] or b"", marks[h.ERROR_CODE] or b""
            letters[source.decode(), code.decode()] += 1
        self._read_events(letters)

    def _read_dispatch(self, log: PartitionLog, entry: Entry) -> None:
        marks = dict(entry.headers)
        source = (marks[h.SOURCE] or b"").decode()
        job = self.jobs.get(source)
        if job is None:
            self._say(f"{log.topic}: dispatched {source}, which was never accepted")
            return
        job.ends.append("dispatched")
        at_ms = int(marks[h.DISPATCHED_AT] or b"")
        if at_ms < job.due_ms:
            self._say(f"{source} was dispatched {job.due_ms - at_ms} ms early")
        true_ms = self._world.now_ms() - (self._world.loop.time() - entry.appended_at) * 1000
        if true_ms + self._world.clock_ahead_ms_max + 1 < job.due_ms:
            self._say(f"{source} was dispatched early by more than any clock is ahead")
        if job.expires_ms and at_ms > job.expires_ms:
            self._say(f"{source} was dispatched {at_ms - job.expires_ms} ms after its expiry")
        if (marks[h.ID] or b"").decode() != job.job_id or entry.value != job.payload:
            self._say(f"{source} was dispatched with another id or payload")
        if entry.key != (job.job_id.encode() if job.key is None else job.key):
            self._say(f"{source} was dispatched with key {entry.key!r}")
        if list(entry.headers)[: len(job.headers)] != job.headers:
            self._say(f"{source} was dispatched with other headers")
        place = (log.topic, log.partition)
        self._left.append(Left(job, at_ms, entry.appended_at, entry.transaction, place))

    def _read_events(self, letters: Counter[tuple[str, str]]) -> None:
        not_found: Counter[tuple[str, str]] = Counter()
        rejects: Counter[str] = Counter()
        given_up: Counter[tuple[str, str]] = Counter()
        for _, entry in self._committed(self._names.events):
            body = orjson.loads(entry.value or b"")
            kind = body["event"]
            if kind == "rejected":
                rejects[body["source"]] += 1
            elif kind == "cancel_not_found":
                not_found[body["tenant"], body["id"]] += 1
            elif kind in {"cancelled", "replaced", "expired", "undeliverable"}:
                self._read_end(kind, body)
                if kind in {"expired", "undeliverable"}:
                    given_up[body["source"], kind] += 1
        if rejects != self._rejected:
            self._say(f"events of rejections {rejects} of {self._rejected}")
        if given_up != letters:
            self._say(f"dead letters {letters} beside events {given_up}")
        self._check_cancels(not_found)

    def _read_end(self, kind: str, body: dict[str, Any]) -> None:
        job = self.jobs.get(body["source"])
        if job is None:
            self._say(f"event {kind} of {body['source']}, which was never accepted")
            return
        job.ends.append(kind)
        if kind == "expired" and (body["at"] <= job.expires_ms or not job.expires_ms):
            self._say(f"{job.source} expired too early")

    def _check_cancels(self, not_found: Counter[tuple[str, str]]) -> None:
        """Each cancel is answered once."""
        for place, chain in self._chains.items():
            cancelled = sum(job.ends == ["cancelled"] for job in chain)
            cancels = sum(job.is_cancel for job in chain)
            if not_found[place] != cancels - cancelled:
                self._say(
                    f"{place}: {cancels} cancels, {cancelled} cancelled, "
                    f"{not_found[place]} not found"
                )

    # --- rules -----------------------------------------------------------------------------

    def _check_fates(self) -> None:
        """Every accepted job ends once, in a way that the next command under its id allows."""
        for place, chain in self._chains.items():
            for number, job in enumerate(chain):
                if job.is_cancel:
                    continue
                if len(job.ends) != 1:
                    what = " and ".join(job.ends) or "nothing"
                    self._say(f"{place} {job.source} (due {job.due_ms}) ended as {what}")
                    continue
                following = chain[number + 1] if number + 1 < len(chain) else None
                allowed = {"dispatched", "expired"}
                if job.payload == POISON:
                    allowed = {"undeliverable", "expired"}
                if following is not None:
                    allowed.add("cancelled" if following.is_cancel else "replaced")
                if job.ends[0] not in allowed:
                    self._say(f"{place} {job.source} is {job.ends[0]}, but nothing asked for it")

    def _check_order(self) -> None:
        """Of the jobs that were there at a dispatch, none that comes before it leaves later."""
        places: dict[tuple[Any, ...], list[Left]] = defaultdict(list)
        for left in self._left:
            places[left.job.tenant, left.place].append(left)
        for lefts in places.values():
            for number, first in enumerate(lefts):
                position = self._positions.get(first.transaction)
                if position is None:
                    self._say(f"{first.job.source} left in a transaction without a position")
                    continue
                line = (first.job.due_ms, first.job.sequence)
                for later in lefts[number + 1 :]:
                    if (
                        (later.job.due_ms, later.job.sequence) < line
                        and later.job.sequence < position
                        and not self._was_just_mended(first)
                    ):
                        self._say(f"{first.job.source} left before {later.job.source}")

    def _was_just_mended(self, left: Left) -> bool:
        """Whether the topic refused everything shortly before: then a job may have been set aside.

        It was tried alone and refused, and the next one was taken.
        """
        return any(
            topic == left.place[0] and 0 <= left.appended_at - at < MENDED_SECONDS
            for topic, at in self._world.mended
        )

    def _check_rates(self) -> None:
        """Between changes of its settings, a tenant keeps to its rate, and rests when paused."""
        by_tenant: dict[str, list[Left]] = defaultdict(list)
        for left in self._left:
            by_tenant[left.job.tenant].append(left)
        for tenant, lefts in by_tenant.items():
            for start, end, fields in self._settings_of(tenant):
                # Those that were decided before the span, in a cycle that stalled, belong to none.
                from_ms = START_MS + start * 1000
                times = sorted(
                    left.at_ms
                    for left in lefts
                    if start <= left.appended_at < end and left.at_ms >= from_ms
                )
                rate = parse_rate(fields.get("rate", "unlimited"))
                if rate is not None:
                    self._check_windows(tenant, times, rate, fields.get("burst", 1))
                if times and fields.get("paused"):
                    self._say(f"{tenant} is paused, but {len(times)} jobs left, at {times}")

    def _check_windows(self, tenant: str, times: list[int], rate: Rate, burst: int) -> None:
        for periods in PERIODS:
            most = rate.count * periods + limiter.effective_burst(rate, burst)
            for index, at_ms in enumerate(times):
                upto = bisect_left(times, at_ms + periods * rate.period_ms)
                if upto - index > most:
                    self._say(
                        f"{tenant} at {rate.count}/{rate.period_ms}ms burst {burst}: "
                        f"{upto - index} dispatches in {periods} periods from {at_ms} on, "
                        f"at most {most}"
                    )
                    return

    def _settings_of(self, tenant: str) -> Iterator[tuple[float, float, dict[str, Any]]]:
        """Spans of true time in which certain settings were in force for certain."""
        own: dict[str, Any] = {}
        default: dict[str, Any] = {}
        since = 0.0
        for record in self._world.published:
            if record.tenant not in {tenant, DEFAULT_TENANT}:
                continue
            if record.is_valid:
                yield since, record.at, {**default, **own}
                since = record.at + SETTLE_SECONDS
                if record.tenant == tenant:
                    own = record.fields or {}
                else:
                    default = record.fields or {}
        yield since, float("inf"), {**default, **own}

    # --- state -----------------------------------------------------------------------------

    def _check_rebuild(self, partition: int) -> None:
        for process in self._world.living():
            runner = process.runners.runners.get(partition)
            if runner is not None and runner.partition is not None:
                for fault in faults_of_store(self._world, runner.partition):
                    self._say(f"inside: {process} partition {partition}: {fault}")
