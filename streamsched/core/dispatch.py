"""The third part of a cycle: due jobs leave, each tenant at its own rate, tenants in turn.

A tenant has a turn at the moment when its next job may leave. Turns are served oldest first, in
bounds per tenant and per cycle; a tenant that may not dispatch has no turn and costs nothing.
Due jobs that may not leave yet go to `ready`, from where the tenant's next turn takes them.
"""

from collections.abc import Iterator
from heapq import heappop

from streamsched.core import headers as h
from streamsched.core import limiter, outbox, state
from streamsched.core.cycle import OutRecord
from streamsched.core.destinations import Destination, Problem
from streamsched.core.draft import Candidate, Draft, PartitionState
from streamsched.core.limits import (
    CYCLE_BYTES_MAX,
    EGRESS_PARTITIONS_PER_CYCLE_MAX,
    JOBS_PER_CYCLE_MAX,
    JOBS_PER_READ_MAX,
    JOBS_PER_TENANT_PER_CYCLE_MAX,
    PASSED_OVER_MAX,
    RECORD_OVERHEAD_BYTES_MAX,
)
from streamsched.core.placement import murmur2
from streamsched.core.store import JOBS, READY
from streamsched.core.sweep import Sweep
from streamsched.core.tenants import Tenant


class Dispatch:
    """Turns of one partition's tenants."""

    def __init__(self, base: PartitionState, sweep: Sweep) -> None:
        """Work on `base`; `sweep` says up to where a tenant's due rows were read."""
        self._base = base
        self._sweep = sweep

    def unpark(self, now_ms: int) -> None:
        """Give tenants whose topic has changed another chance."""
        base = self._base
        if base.directory.version == base.directory_version:
            return
        base.directory_version = base.directory.version
        parked, base.parked = base.parked, {}
        for names in parked.values():
            for name in sorted(names):
                tenant = base.tenants[name]
                if isinstance(tenant.blocked, Problem):
                    self.free(tenant, now_ms)

    def free(self, tenant: Tenant, now_ms: int) -> None:
        """Lift what blocked the tenant; its waiting jobs get a turn."""
        tenant.blocked = ""
        tenant.blocked_detail = ""
        tenant.free_since_ms = now_ms
        tenant.waiting = False
        if tenant.ready:
            self._base.give_turn(tenant, now_ms)

    def run(self, draft: Draft, *, is_open: bool) -> None:
        """Serve turns; whatever of the candidates has not left goes to `ready`."""
        base = self._base
        for tenant in draft.eased:
            if tenant.blocked == Problem.TOO_SMALL:
                self.free(tenant, draft.now_ms)
        for name, candidates in draft.candidates.items():
            tenant = base.tenants.get(name) or base.tenant(name)
            candidates.sort()
            if not tenant.blocked:
                base.give_turn(tenant, draft.now_ms)
        if is_open:
            self._serve(draft)
        for name, candidates in draft.candidates.items():
            if candidates:
                self._keep(draft, base.tenants[name], candidates)

    def _serve(self, draft: Draft) -> None:
        base = self._base
        turns = base.turns
        now_ms = draft.now_ms
        jobs_left = JOBS_PER_CYCLE_MAX
        partitions: set[tuple[str, int]] = set()
        # Turns are given after the loop, so that each tenant has at most one in a cycle: the
        # store does not show yet what this cycle took.
        later: list[tuple[Tenant, int]] = []
        passed_over = 0
        while turns and turns[0][0] <= now_ms and jobs_left > 0:
            if draft.bytes_out >= CYCLE_BYTES_MAX or passed_over >= PASSED_OVER_MAX:
                break
            at_ms, _, name = heappop(turns)
            tenant = base.tenants[name]
            if tenant.turn_at_ms != at_ms:
                continue
            tenant.turn_at_ms = None
            if tenant.blocked:
                continue
            destination = self._destination(tenant)
            if destination is None:
                continue
            if (
                len(partitions) >= EGRESS_PARTITIONS_PER_CYCLE_MAX
                and (destination.topic, self._sticky(tenant, destination)) not in partitions
            ):
                later.append((tenant, at_ms))
                passed_over += 1
                continue
            jobs, next_ms = self._serve_tenant(draft, tenant, destination, partitions, jobs_left)
            jobs_left -= jobs
            if next_ms is not None:
                later.append((tenant, next_ms))
        for tenant, at_ms in later:
            base.give_turn(tenant, at_ms)

    def _destination(self, tenant: Tenant) -> Destination | None:
        """The tenant's egress topic if it can be written to; else the tenant is parked."""
        base = self._base
        topic = tenant.effective.egress_topic
        destination = base.directory.lookup(topic)
        if destination is None:
            base.directory.want(topic, tenant.effective.egress_partitions)
            self._park(tenant, topic, Problem.UNKNOWN, "not looked at yet")
            return None
        if destination.problem is not None:
            self._park(tenant, topic, destination.problem, destination.detail)
            return None
        return destination

    def _park(self, tenant: Tenant, topic: str, problem: Problem, detail: str) -> None:
        tenant.blocked = problem
        tenant.blocked_detail = f"egress topic {topic}: {detail or problem.value}"
        self._base.parked.setdefault(topic, set()).add(tenant.name)

    def _sticky(self, tenant: Tenant, destination: Destination) -> int:
        """Where this cycle's jobs without a key go: another partition each cycle."""
        if destination.partitions == 1:
            return 0
        # Mixed, so that a tenant served every third cycle still meets all of three partitions.
        mixed = (self._base.cycle_count + len(tenant.raw)) * 0x9E3779B1 & 0xFFFFFFFF
        return (mixed >> 8) % destination.partitions

    # --- one tenant ------------------------------------------------------------------------

    def _serve_tenant(
        self,
        draft: Draft,
        tenant: Tenant,
        destination: Destination,
        partitions: set[tuple[str, int]],
        jobs_left: int,
    ) -> tuple[int, int | None]:
        """Let the tenant's next jobs leave, at most `jobs_left`.

        Returns how many did, and when the tenant's next turn is, `None` if it needs none.
        """
        now_ms = draft.now_ms
        most = min(jobs_left, JOBS_PER_TENANT_PER_CYCLE_MAX)
        pace = tenant.effective.pace
        at_ticks = 0
        if not tenant.seen:
            draft.see(tenant)
        if pace is not None and tenant.at_ticks is not None:
            allowed = limiter.allowance(*pace, tenant.at_ticks, now_ms, waiting=tenant.waiting)
            at_ticks = allowed.at_ticks
            if allowed.jobs == 0:
                tenant.waiting = True
                return 0, limiter.next_ms(pace[0], at_ticks)
            most = min(most, allowed.jobs)
        chosen, left, from_ready, is_late = self._choose(draft, tenant, most)
        sent = self._send(draft, tenant, destination, partitions, chosen, at_ticks)
        left = [*chosen[sent.taken :], *left]
        self._settle(draft, tenant, chosen[: sent.taken], left, from_ready)
        if sent.jobs and pace is not None:
            tenant.at_ticks = limiter.spend(pace[0], at_ticks, sent.jobs)
            draft.write_limiter(tenant)
        tenant.waiting = tenant.ready > 0
        if tenant.blocked or not (tenant.ready or is_late):
            return sent.jobs, None
        if pace is None or tenant.at_ticks is None:
            return sent.jobs, now_ms
        return sent.jobs, max(now_ms, limiter.next_ms(pace[0], tenant.at_ticks))

    def _choose(
        self, draft: Draft, tenant: Tenant, most: int
    ) -> tuple[list[Candidate], list[Candidate], set[int], bool]:
        """The next `most` jobs by (due, sequence) out of `ready` and this cycle's candidates.

        Returns them, the candidates left over, the sequences that came from `ready`, and whether
        jobs were passed over because earlier ones may still lie unread in `due`.
        """
        pool: list[Candidate] = draft.candidates.get(tenant.name, [])
        if draft.dead:
            pool = [candidate for candidate in pool if candidate[1] not in draft.dead]
        from_ready: set[int] = set()
        if tenant.ready:
            waiting = self._read_ready(draft, tenant, most)
            from_ready = {candidate[1] for candidate in waiting}
            pool = sorted([*waiting, *pool]) if pool else waiting
        horizon = self._sweep.horizon(tenant.name, tenant.raw, draft.now_ms)
        chosen = pool[:most]
        is_late = False
        if horizon is not None:
            kept = [candidate for candidate in chosen if candidate[:2] < horizon]
            is_late = len(kept) < len(chosen)
            chosen = kept
        return chosen, pool[len(chosen) :], from_ready, is_late

    def _read_ready(self, draft: Draft, tenant: Tenant, most: int) -> list[Candidate]:
        """The first `most` rows of the tenant in `ready`."""
        rows: list[Candidate] = []
        lower = state.ready_key(tenant.raw, *tenant.head)
        dropped = draft.dropped
        with self._base.store.cursor(READY, lower, tenant.raw + state.AFTER_NUL) as cursor:
            while len(rows) < most and cursor.valid():
                key = cursor.key()
                if key not in dropped:
                    due_ms, sequence = state.split_ready_key(key)
                    rows.append((due_ms, sequence, state.split_ready_value(cursor.value())))
                cursor.next()
        return rows

    def _send(
        self,
        draft: Draft,
        tenant: Tenant,
        destination: Destination,
        partitions: set[tuple[str, int]],
        chosen: list[Candidate],
        at_ticks: int,
    ) -> "_Sent":
        """Put the chosen jobs on the tenant's topic, in order, as far as the bounds allow."""
        cycle = draft.cycle
        now_ms = draft.now_ms
        raw = tenant.raw
        topic = destination.topic
        sticky = self._sticky(tenant, destination)
        room = destination.max_message_bytes - RECORD_OVERHEAD_BYTES_MAX
        pace = tenant.effective.pace
        tenant_header = (h.TENANT, raw)
        moment_headers = [(h.DISPATCHED_AT, b"%d" % now_ms), (h.OCCURRENCE, b"0")]
        sent = _Sent()
        for candidate, key, row in self._rows(draft, raw, chosen):
            job = state.decode_job(row)
            job_id = candidate[2]
            if job.expires_ms and job.expires_ms < now_ms:
                draft.unindex_expiry(tenant, job.expires_ms, job.sequence)
                draft.delete_job(tenant, key)
                draft.expire(tenant, job_id, job)
                sent.taken += 1
                continue
            if len(row) + len(job_id) * 2 > room:
                self._park(
                    tenant,
                    topic,
                    Problem.TOO_SMALL,
                    f"job {job_id.decode()!r} needs about {len(row)} bytes, max.message.bytes "
                    f"is {destination.max_message_bytes}",
                )
                break
            partition = sticky
            if job.key is not None and destination.partitions > 1:
                partition = murmur2(job.key) % destination.partitions
            place = (topic, partition)
            if place not in partitions:
                if len(partitions) >= EGRESS_PARTITIONS_PER_CYCLE_MAX:
                    break
                partitions.add(place)
            cycle.records.append(
                OutRecord(
                    topic,
                    partition,
                    job_id if job.key is None else job.key,
                    job.payload,
                    [
                        *job.headers,
                        (h.ID, job_id),
                        tenant_header,
                        (h.DUE_AT, b"%d" % job.due_ms),
                        *moment_headers,
                        (h.SOURCE, b"%d-%d" % (job.source_partition, job.source_offset)),
                    ],
                    now_ms,
                )
            )
            draft.unindex_expiry(tenant, job.expires_ms, job.sequence)
            draft.delete_job(tenant, key)
            draft.bytes_out += len(row)
            eligible_ms = max(job.due_ms, job.accepted_ms, tenant.free_since_ms)
            if pace is not None:
                eligible_ms = max(
                    eligible_ms,
                    limiter.next_ms(pace[0], limiter.spend(pace[0], at_ticks, sent.jobs)),
                )
            self._note(draft, job, eligible_ms)
            self._tell(draft, tenant, topic, job_id, job)
            sent.taken += 1
            sent.jobs += 1
            if draft.bytes_out >= CYCLE_BYTES_MAX:
                break
        if sent.jobs:
            cycle.egress_topics.add(topic)
            cycle.counts["dispatched"] += sent.jobs
        return sent

    def _rows(
        self, draft: Draft, raw: bytes, chosen: list[Candidate]
    ) -> Iterator[tuple[Candidate, bytes, bytes]]:
        """The chosen jobs with key and row, read in slices: their payloads may be large."""
        for first in range(0, len(chosen), JOBS_PER_READ_MAX):
            yield from self._some_rows(draft, raw, chosen[first : first + JOBS_PER_READ_MAX])

    def _some_rows(
        self, draft: Draft, raw: bytes, chosen: list[Candidate]
    ) -> list[tuple[Candidate, bytes, bytes]]:
        """Jobs with key and row; this cycle's own writes before the store's."""
        keys = [state.job_key(raw, candidate[2]) for candidate in chosen]
        known = draft.rows
        unread = [key for key in keys if key not in known] if known else keys
        read = dict(zip(unread, self._base.store.get_many(JOBS, unread), strict=True))
        rows: list[tuple[Candidate, bytes, bytes]] = []
        for candidate, key in zip(chosen, keys, strict=True):
            row = known[key] if key in known else read[key]
            if row is None or state.job_times(row)[1] != candidate[1]:
                raise BrokenIndexError(
                    f"partition {self._base.partition}: the index names job {key!r} with "
                    f"sequence {candidate[1]}, but no such row is in the store; "
                    "delete the local state to have it rebuilt from the changelog"
                )
            rows.append((candidate, key, row))
        return rows

    @staticmethod
    def _tell(draft: Draft, tenant: Tenant, topic: str, job_id: bytes, job: state.JobRow) -> None:
        if tenant.effective.all_events:
            source = outbox.source_of(job.source_partition, job.source_offset)
            draft.event(
                "dispatched", tenant.name, job_id, due_at=job.due_ms, source=source, topic=topic
            )
            draft.cycle.counts["dispatched"] -= 1  # counted by the caller, with the others

    def _note(self, draft: Draft, job: state.JobRow, eligible_ms: int) -> None:
        since_ms = max(job.due_ms, job.accepted_ms)
        late_ms = max(0, draft.now_ms - since_ms)
        ours_ms = min(late_ms, max(0, draft.now_ms - eligible_ms))
        draft.cycle.lateness_ms.append(ours_ms)
        draft.cycle.throttled_ms.append(late_ms - ours_ms)

    def _settle(
        self,
        draft: Draft,
        tenant: Tenant,
        gone: list[Candidate],
        left: list[Candidate],
        from_ready: set[int],
    ) -> None:
        """Bring `ready` up to date: what left is deleted, what stays of the candidates goes in."""
        raw = tenant.raw
        batch = draft.cycle.batch
        if from_ready:
            last: Candidate | None = None
            for candidate in gone:
                if candidate[1] in from_ready:
                    batch.append((READY, state.ready_key(raw, candidate[0], candidate[1]), None))
                    tenant.ready -= 1
                    last = candidate
            if last is not None:
                tenant.head = max(tenant.head, (last[0], last[1] + 1))
        draft.touched.add(tenant)
        kept = [candidate for candidate in left if candidate[1] not in from_ready]
        if tenant.name in draft.candidates:
            draft.candidates[tenant.name] = []
        self._keep(draft, tenant, kept)

    def _keep(self, draft: Draft, tenant: Tenant, candidates: list[Candidate]) -> None:
        """Put due jobs that may not leave yet into `ready`."""
        raw = tenant.raw
        batch = draft.cycle.batch
        dead = draft.dead
        for due_ms, sequence, job_id in candidates:
            if sequence in dead:
                continue
            if tenant.ready == 0 or (due_ms, sequence) < tenant.head:
                tenant.head = (due_ms, sequence)
            tenant.ready += 1
            batch.append((READY, state.ready_key(raw, due_ms, sequence), state.ready_value(job_id)))
        draft.touched.add(tenant)


class _Sent:
    """How many jobs were taken off a tenant's line, and how many of them were dispatched."""

    __slots__ = ("jobs", "taken")

    def __init__(self) -> None:
        self.taken = 0
        self.jobs = 0


class BrokenIndexError(Exception):
    """The store contradicts itself; it can be rebuilt from the changelog."""
