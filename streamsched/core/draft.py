"""A cycle while it is being made, and the state of the partition that it works on."""

from heapq import heapify, heappush

from streamsched.core import limiter, outbox, state
from streamsched.core.cycle import Cycle
from streamsched.core.destinations import Directory, Problem
from streamsched.core.limits import STALE_TURNS_MAX
from streamsched.core.names import TopicNames
from streamsched.core.settings_view import SettingsView
from streamsched.core.state import JobRow
from streamsched.core.store import DUE, JOBS, META, READY, Reader
from streamsched.core.tenant_settings import NOTHING, OwnSettings, merge
from streamsched.core.tenants import PAUSED, SETTINGS_INVALID, Tenant
from streamsched.core.trials import Trial

Candidate = tuple[int, int, bytes]
"""A due job that is in no index at the moment: due_ms, sequence, id."""


class PartitionState:
    """What a partition keeps in memory between cycles, derived from its store but for trials."""

    def __init__(
        self,
        partition: int,
        partitions: int,
        names: TopicNames,
        store: Reader,
        view: SettingsView,
        directory: Directory,
    ) -> None:
        """An empty state; `Partition.load` fills it from the store."""
        self.partition = partition
        self.partitions = partitions
        self.names = names
        self.store = store
        self.view = view
        self.directory = directory
        self.tenants: dict[str, Tenant] = {}
        self.default: OwnSettings = NOTHING
        self.default_offset = -1
        self.settings_topic_id = ""
        """The settings topic that the offsets of settings are of; empty where none is known."""
        self.default_invalid = False
        self.view_version = 0
        self.directory_version = -1
        self.turns: list[tuple[int, int, str]] = []
        """Heap of (moment, tie-break, tenant); an entry counts if it equals the tenant's turn."""
        self.turn_count = 0
        self.parked: dict[str, set[str]] = {}
        """Tenants that wait for a topic to become good, by topic."""
        self.trials: dict[str, Trial] = {}
        """Topics that refused records, as many as tenants have. An abort leaves this alone."""
        self.letters_rest_until_ms = 0
        """Until then nothing is undeliverable: the dead letters were refused."""
        self.last_now_ms = 0
        self.cycle_count = 0

    def tenant(self, name: str) -> Tenant:
        """The tenant, made from the defaults when it is met for the first time."""
        tenant = self.tenants.get(name)
        if tenant is None:
            tenant = Tenant(name, merge(NOTHING, self.default, name, self.names))
            if self.default_invalid:
                tenant.blocked = SETTINGS_INVALID
            elif tenant.effective.paused:
                tenant.blocked = PAUSED
            self.tenants[name] = tenant
        return tenant

    def give_turn(self, tenant: Tenant, at_ms: int) -> None:
        """Let the tenant be looked at from `at_ms` on, unless it is to be sooner already."""
        if tenant.turn_at_ms is not None and tenant.turn_at_ms <= at_ms:
            return
        tenant.turn_at_ms = at_ms
        self.turn_count += 1
        heappush(self.turns, (at_ms, self.turn_count, tenant.name))
        if len(self.turns) > 2 * len(self.tenants) + STALE_TURNS_MAX:
            self._drop_stale_turns()

    def _drop_stale_turns(self) -> None:
        """Leave each tenant the one entry that counts; others go only when their moment comes."""
        valid: dict[str, tuple[int, int, str]] = {}
        for turn in self.turns:
            if self.tenants[turn[2]].turn_at_ms == turn[0]:
                valid[turn[2]] = min(turn, valid.get(turn[2], turn))
        self.turns[:] = valid.values()
        heapify(self.turns)


class Draft:
    """The cycle in progress: what it reads through, and what it has decided so far."""

    def __init__(self, base: PartitionState, cycle: Cycle) -> None:
        """Begin with nothing decided."""
        self.base = base
        self.cycle = cycle
        self.now_ms = cycle.now_ms
        self.rows: dict[bytes, bytes | None] = {}
        """Jobs that this cycle looked up or changed, by job key; `None` is absent."""
        self.dropped: set[bytes] = set()
        """Keys of `due` and `ready` that this cycle deleted though the store still has them."""
        self.dead: set[int] = set()
        """Sequences of candidates that were cancelled, replaced or expired within the cycle."""
        self.candidates: dict[str, list[Candidate]] = {}
        self.fresh: set[int] = set()
        """Sequences of all candidates of this cycle."""
        self.written: list[tuple[int, str, int]] = []
        """Rows written to `due` for a second that has begun: moment, tenant, sequence."""
        self.first_written_second: int | None = None
        """The first of the other seconds that rows were written for."""
        self._next_second = self.now_ms // 1000 + 1
        self.touched: set[Tenant] = set()
        """Tenants whose counts must be written."""
        self.eased: set[Tenant] = set()
        """Tenants that a job has left which was perhaps the one too large for their topic."""
        self.bytes_out = 0

    def write_state(self, family: str, key: bytes, value: bytes | None) -> None:
        """Change a value that is in the changelog as well as in the store."""
        self.cycle.batch.append((family, key, value))
        self.cycle.changelog.append((key, value))

    def see(self, tenant: Tenant) -> None:
        """Take note of a tenant's first job: its limiter has a level from here on."""
        tenant.seen = True
        if tenant.pace is not None:
            tenant.at_ticks = limiter.full(*tenant.pace, self.now_ms)
        self.write_limiter(tenant)

    def write_limiter(self, tenant: Tenant) -> None:
        """Write the tenant's limiter as it is in memory."""
        value = state.encode_limiter(tenant.pace, tenant.at_ticks or 0)
        self.write_state(META, state.LIMITER_PREFIX + tenant.raw, value)

    def event(self, kind: str, tenant: str | None, job_id: bytes | None, **more: object) -> None:
        """Send an event and count it."""
        self.cycle.counts[kind] += 1
        self.cycle.records.append(
            outbox.event(self.base.names, kind, tenant, job_id, self.now_ms, **more)
        )

    def index(self, tenant: Tenant, at_ms: int, sequence: int, value: bytes) -> None:
        """Write a row of `due` for a moment that is yet to come."""
        self.cycle.batch.append((DUE, state.due_key(at_ms, tenant.raw, sequence), value))
        second = at_ms // 1000
        if second < self._next_second:
            self.written.append((at_ms, tenant.name, sequence))
        elif self.first_written_second is None or second < self.first_written_second:
            self.first_written_second = second

    def unindex(self, tenant: Tenant, due_ms: int, sequence: int, expires_ms: int) -> None:
        """Take a pending job out of the indexes, wherever it is at the moment."""
        batch = self.cycle.batch
        if tenant.blocked == Problem.TOO_SMALL:
            self.eased.add(tenant)
        self.unindex_expiry(tenant, expires_ms, sequence)
        if due_ms > self.now_ms:
            key = state.due_key(due_ms, tenant.raw, sequence)
            batch.append((DUE, key, None))
            self.dropped.add(key)
            return
        if sequence in self.fresh:
            self.dead.add(sequence)
            return
        key = state.ready_key(tenant.raw, due_ms, sequence)
        if self.base.store.get(READY, key) is not None:
            batch.append((READY, key, None))
            tenant.ready -= 1
        else:
            self.dropped.add(key)
            key = state.due_key(due_ms, tenant.raw, sequence)
            batch.append((DUE, key, None))
        self.dropped.add(key)

    def unindex_expiry(self, tenant: Tenant, expires_ms: int, sequence: int) -> None:
        """Take the expiry of a job that leaves for another reason out of `due`."""
        if expires_ms:
            key = state.due_key(expires_ms + 1, tenant.raw, sequence)
            self.cycle.batch.append((DUE, key, None))
            self.dropped.add(key)

    def delete_job(self, tenant: Tenant, key: bytes) -> None:
        """Remove a job's row from the store and, by a tombstone, from the changelog."""
        self.delete_jobs(tenant, [key])

    def delete_jobs(self, tenant: Tenant, keys: list[bytes]) -> None:
        """As `delete_job`, for many at once."""
        self.rows.update(dict.fromkeys(keys))
        self.cycle.batch += [(JOBS, key, None) for key in keys]
        self.cycle.changelog += [(key, None) for key in keys]
        tenant.pending -= len(keys)
        self.touched.add(tenant)

    def expire(self, tenant: Tenant, job_id: bytes, job: JobRow) -> None:
        """Send an expired job to the dead letters, with its event."""
        self._give_up(tenant, job_id, job, "expired", f"expired at {job.expires_ms}")

    def find_undeliverable(
        self, tenant: Tenant, job_id: bytes, job: JobRow, topic: str, words: str
    ) -> None:
        """Send a job that `topic` refuses to the dead letters, with its event."""
        message = f"egress topic {topic} refuses it: {words}"
        self._give_up(tenant, job_id, job, "undeliverable", message, topic=topic)

    def _give_up(
        self, tenant: Tenant, job_id: bytes, job: JobRow, kind: str, message: str, **more: object
    ) -> None:
        names = self.base.names
        self.cycle.records.append(
            outbox.dead_letter(names, tenant.raw, job_id, job, kind, message, self.now_ms)
        )
        self.event(
            kind,
            tenant.name,
            job_id,
            due_at=job.due_ms,
            source=outbox.source_of(job.source_partition, job.source_offset),
            reason=kind,
            **more,
        )
