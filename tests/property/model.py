"""What a scheduler must do, told by dictionaries, and a driver that is checked against it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from streamsched.core import headers as h
from streamsched.core import limiter, state
from streamsched.core.cycle import Cycle, OutRecord
from streamsched.core.names import DEFAULT_TENANT
from streamsched.core.placement import partition_for
from streamsched.core.rate import Rate, parse_rate
from streamsched.core.store import DUE, FAMILIES, JOBS, META, READY, Store
from streamsched.testing import Driver, Record, headers_of

TOP = b"\xff" * 300

Source = str
Outcome = tuple[str, str | None]
"""An event's kind, and the source of the job it is about."""


def rows_of(store: Store, family: str) -> dict[bytes, bytes]:
    """Everything in one family."""
    found: dict[bytes, bytes] = {}
    with store.cursor(family, b"", TOP) as cursor:
        while cursor.valid():
            found[cursor.key()] = cursor.value()
            cursor.next()
    return found


def dump(store: Store) -> dict[str, dict[bytes, bytes]]:
    """Everything in a store."""
    return {family: rows_of(store, family) for family in FAMILIES}


@dataclass
class Job:
    """An accepted job as the model sees it."""

    tenant: str
    job_id: bytes
    source: Source
    sequence: int
    due_ms: int
    expires_ms: int

    def line(self) -> tuple[int, int]:
        """Its place among the tenant's jobs."""
        return self.due_ms, self.sequence


class CheckedDriver(Driver):
    """A driver whose every committed cycle is compared with the model."""

    def __init__(self, *, partitions: int, store: Callable[[int], Store] | None = None) -> None:
        self.held: dict[tuple[str, bytes], Job] = {}
        self.outcomes: dict[Source, str] = {}
        self.accepted: set[Source] = set()
        self.rejected: list[tuple[int, int]] = []
        self.settings: dict[str, dict[str, Any]] = {}
        self.left_at: dict[str, list[int]] = {}
        """Moments of a tenant's dispatches since its settings last changed."""
        self.broken: set[str] = set()
        self.reached = [0] * partitions
        super().__init__(partitions=partitions, store=store)

    # --- what applies to a tenant ----------------------------------------------------------

    def setting(self, tenant: str, name: str, built_in: Any) -> Any:
        """A setting by the rules of records and defaults."""
        for key in (tenant, DEFAULT_TENANT):
            if name in self.settings.get(key, {}):
                return self.settings[key][name]
        return built_in

    def pace(self, tenant: str) -> tuple[Rate, int] | None:
        """Rate and burst in force."""
        rate = parse_rate(self.setting(tenant, "rate", "unlimited"))
        return None if rate is None else (rate, self.setting(tenant, "burst", 1))

    def topic(self, tenant: str) -> str:
        """The egress topic in force."""
        return str(self.setting(tenant, "egress_topic", self.names.egress(tenant)))

    def change(self, key: str, fields: dict[str, Any] | None) -> None:
        """Publish a valid record or a tombstone."""
        if fields is None:
            self.settings.pop(key, None)
            self.unset_tenant(key)
        else:
            self.settings[key] = fields
            assert not self.set_tenant(key, **fields)
        for tenant in list(self.left_at):
            if key in (tenant, DEFAULT_TENANT):
                del self.left_at[tenant]

    # --- one cycle -------------------------------------------------------------------------

    def _commit(self, partition: int, cycle: Cycle) -> None:
        super()._commit(partition, cycle)
        expected = self._take_in(partition, cycle)
        told: list[str] = []
        left: list[str] = []
        for record in cycle.records:
            if record.topic == self.names.events:
                body = orjson.loads(record.value or b"")
                kind = body["event"]
                if expected and kind in {"cancelled", "cancel_not_found", "replaced", "expired"}:
                    assert (kind, body.get("source")) == expected.pop(0)
                elif kind == "expired":
                    self._expired(body["source"], cycle.now_ms)
                elif kind == "dispatched":
                    told.append(body["source"])
                else:
                    assert kind == "scheduled", body
            elif record.topic not in {
                self.names.jobs,
                self.names.rejected,
                self.names.dead_letters,
            }:
                left += self._dispatched(record, cycle.now_ms)
        assert not expected
        assert told == left
        self.check_store(partition)

    def _take_in(self, partition: int, cycle: Cycle) -> list[Outcome]:
        """The ingress records of a cycle, by the rules; returns the events they must leave."""
        events: list[Outcome] = []
        for record in self._ingress[partition][self.reached[partition] : cycle.next_offset]:
            marks = dict(record.headers)
            tenant = (marks.get(h.TENANT) or record.key or b"").decode()
            if partition_for(tenant.encode(), len(self.partitions)) != partition:
                continue
            source = (marks.get(h.SOURCE) or b"%d-%d" % (partition, record.offset)).decode()
            key = (tenant, marks[h.ID] or b"")
            old = self.held.get(key)
            if record.value is None:
                events.append(("cancelled", old.source) if old else ("cancel_not_found", None))
                if old:
                    self._end(old, "cancelled")
                continue
            if old:
                events.append(("replaced", old.source))
                self._end(old, "replaced")
            due_ms = int(marks[h.DUE_AT] or b"")
            expires_ms = int(marks.get(h.EXPIRES_AT) or b"0")
            job = Job(tenant, key[1], source, record.offset, due_ms, expires_ms)
            assert source not in self.accepted
            self.accepted.add(source)
            self.held[key] = job
            if 0 < expires_ms < cycle.now_ms:
                events.append(("expired", source))
                self._end(job, "expired")
        self.reached[partition] = cycle.next_offset
        return events

    def _end(self, job: Job, outcome: str) -> None:
        assert job.source not in self.outcomes
        assert self.held.pop((job.tenant, job.job_id)) is job
        self.outcomes[job.source] = outcome

    def _by_source(self, source: Source) -> Job:
        [job] = [job for job in self.held.values() if job.source == source]
        return job

    def _expired(self, source: Source, now_ms: int) -> None:
        job = self._by_source(source)
        assert 0 < job.expires_ms < now_ms
        self._end(job, "expired")

    def _dispatched(self, record: OutRecord, now_ms: int) -> list[Source]:
        """Check one dispatch; returns its source if an event must tell of it."""
        marks = headers_of(record)
        job = self._by_source((marks[h.SOURCE] or b"").decode())
        assert job.due_ms <= now_ms
        assert not job.expires_ms or now_ms <= job.expires_ms
        assert marks[h.ID] == job.job_id
        assert marks[h.DISPATCHED_AT] == b"%d" % now_ms
        for other in self.held.values():
            if other.tenant == job.tenant and not 0 < other.expires_ms < now_ms:
                assert job.line() <= other.line(), "an earlier job is still pending"
        assert record.topic == self.topic(job.tenant)
        assert record.topic not in self.broken
        assert not self.setting(job.tenant, "paused", built_in=False)
        self._end(job, "dispatched")
        self._check_rate(job.tenant, now_ms)
        return [job.source] if self.setting(job.tenant, "events", "outcomes") == "all" else []

    def _check_rate(self, tenant: str, now_ms: int) -> None:
        pace = self.pace(tenant)
        if pace is None:
            return
        rate, burst = pace
        times = self.left_at.setdefault(tenant, [])
        times.append(now_ms)
        most = limiter.effective_burst(rate, burst)
        for index, first_ms in enumerate(times):
            periods = (now_ms - first_ms) // rate.period_ms + 1
            assert len(times) - index <= rate.count * periods + most

    # --- the store -------------------------------------------------------------------------

    def check_store(self, number: int) -> None:
        """Every row of the indexes is alive, each pending job is indexed once, counts are right."""
        it = self.partitions[number]
        count = len(self.partitions)
        mine = {
            state.job_key(tenant.encode(), job_id): job
            for (tenant, job_id), job in self.held.items()
            if partition_for(tenant.encode(), count) == number
        }
        assert set(rows_of(it.store, JOBS)) == set(mine)
        due, ready = Counter[tuple[str, int]](), Counter[tuple[str, int]]()
        expiries = Counter[tuple[str, int]]()
        cursor = it.store.get(META, state.CURSOR_KEY)
        lowest = state.second_key(0 if cursor is None else state.decode_cursor(cursor))
        for key, value in rows_of(it.store, DUE).items():
            assert key >= lowest, "a row below the cursor is never read"
            tenant, _, sequence = state.split_due_key(key)
            kind, _ = state.split_due_value(value)
            (due if kind == state.KIND_DUE else expiries)[tenant.decode(), sequence] += 1
        heads = {name: tenant.head for name, tenant in it.tenants.items()}
        for key in rows_of(it.store, READY):
            tenant = key.partition(state.NUL)[0]
            line = state.split_ready_key(key)
            assert line >= heads[tenant.decode()]
            assert line[0] <= it.last_now_ms
            ready[tenant.decode(), line[1]] += 1
        jobs = mine.values()
        never = {j.line() for j in jobs if 0 < j.expires_ms < j.due_ms}
        assert due + ready == Counter((j.tenant, j.sequence) for j in jobs if j.line() not in never)
        assert expiries == Counter((j.tenant, j.sequence) for j in jobs if j.expires_ms)
        for name, held in it.tenants.items():
            assert held.pending == sum(j.tenant == name for j in jobs)
            assert held.ready == sum(n for (tenant, _), n in ready.items() if tenant == name)

    def check_rest(self) -> None:
        """Nothing that is due and free to leave is still here once there is nothing to do."""
        for job in self.held.values():
            number = partition_for(job.tenant.encode(), len(self.partitions))
            now_ms = self.partitions[number].last_now_ms
            assert not 0 < job.expires_ms < now_ms
            if self.setting(job.tenant, "paused", built_in=False):
                continue
            if self.topic(job.tenant) in self.broken or self.pace(job.tenant):
                continue
            assert job.due_ms > now_ms, f"{job} should have left at {now_ms}"

    def submit_to(self, partition: int | None, tenant: str, job_id: str, **fields: Any) -> None:
        """Submit in header mode to any partition, the wrong one included."""
        marks: list[tuple[str, bytes | None]] = [
            (h.ID, job_id.encode()),
            (h.DUE_AT, b"%d" % fields["due_at_ms"]),
        ]
        if fields.get("expires_at_ms"):
            marks.append((h.EXPIRES_AT, b"%d" % fields["expires_at_ms"]))
        if fields.get("key"):
            marks.append((h.KEY, fields["key"].encode()))
        self.pipe(Record(tenant.encode(), fields["payload"], marks), partition)
