"""The third part of a cycle: due jobs leave, each tenant at its own rate, tenants in turn.

A tenant has a turn at the moment when its next job may leave. Turns are served oldest first, in
bounds per tenant and per cycle; a tenant that may not dispatch has no turn and costs nothing.
Due jobs that may not leave yet go to `ready`, from where the tenant's next turn takes them.
"""

from heapq import heappop

from streamsched.core import limiter, state
from streamsched.core.destinations import Destination, Problem
from streamsched.core.draft import Candidate, Draft, PartitionState
from streamsched.core.limits import (
    CYCLE_BYTES_MAX,
    EGRESS_PARTITIONS_PER_CYCLE_MAX,
    JOBS_PER_CYCLE_MAX,
    JOBS_PER_TENANT_PER_CYCLE_MAX,
    PASSED_OVER_MAX,
)
from streamsched.core.sending import Sending
from streamsched.core.store import READY
from streamsched.core.sweep import Sweep
from streamsched.core.tenants import SETTINGS_INVALID, Tenant


class Dispatch:
    """Turns of one partition's tenants."""

    def __init__(self, base: PartitionState, sweep: Sweep) -> None:
        """Work on `base`; `sweep` says up to where a tenant's due rows were read."""
        self._base = base
        self._sweep = sweep
        self._sending = Sending(base)

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

    def prepare(self, tenant: Tenant) -> None:
        """Have the tenant's topic looked at, and made, before its first job is due."""
        directory, effective = self._base.directory, tenant.effective
        is_settled = self._base.view.complete and tenant.blocked != SETTINGS_INVALID
        if is_settled and directory.lookup(effective.egress_topic) is None:
            directory.want(effective.egress_topic, effective.egress_partitions)

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
        """Give each tenant whose turn has come its share of what one cycle can send.

        Those that want little come first, and what they leave of their share goes to the others:
        nobody waits because some have much. A tenant is served once in a cycle, since the store
        does not show yet what the cycle took.
        """
        picked, later = self._pick(draft.now_ms)
        picked.sort(key=lambda turn: self._wanted(draft, turn[0]))
        jobs_left = JOBS_PER_CYCLE_MAX
        partitions: set[tuple[str, int]] = set()
        for number, (tenant, at_ms, destination) in enumerate(picked):
            share = -(-jobs_left // (len(picked) - number))
            if share == 0 or draft.bytes_out >= CYCLE_BYTES_MAX:
                later.append((tenant, at_ms))
                continue
            jobs, next_ms = self._serve_tenant(draft, tenant, destination, partitions, share)
            jobs_left -= jobs
            if next_ms is not None:
                later.append((tenant, next_ms))
        for tenant, at_ms in later:
            self._base.give_turn(tenant, at_ms)

    def _pick(
        self, now_ms: int
    ) -> tuple[list[tuple[Tenant, int, Destination]], list[tuple[Tenant, int]]]:
        """Tenants whose turn has come, oldest first, as far as the egress partitions go.

        Returns them with the moment of their turn, and those that were passed over.
        """
        base = self._base
        turns = base.turns
        picked: list[tuple[Tenant, int, Destination]] = []
        passed_over: list[tuple[Tenant, int]] = []
        places: set[tuple[str, int]] = set()
        while turns and turns[0][0] <= now_ms and len(picked) < JOBS_PER_CYCLE_MAX:
            if len(passed_over) >= PASSED_OVER_MAX:
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
            place = (destination.topic, self._sticky(tenant, destination))
            if place not in places and len(places) >= EGRESS_PARTITIONS_PER_CYCLE_MAX:
                passed_over.append((tenant, at_ms))
                continue
            places.add(place)
            picked.append((tenant, at_ms, destination))
        return picked, passed_over

    @staticmethod
    def _wanted(draft: Draft, tenant: Tenant) -> int:
        """How many due jobs the tenant has, as far as they were read."""
        return tenant.ready + len(draft.candidates.get(tenant.name, ()))

    def _destination(self, tenant: Tenant) -> Destination | None:
        """The tenant's egress topic if it can be written to; else the tenant is parked."""
        base = self._base
        topic = tenant.effective.egress_topic
        destination = base.directory.lookup(topic)
        if destination is None:
            self.prepare(tenant)
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
        sticky = self._sticky(tenant, destination)
        sent = self._sending.run(draft, tenant, destination, sticky, partitions, chosen, at_ticks)
        if sent.too_large:
            self._park(tenant, destination.topic, Problem.TOO_SMALL, sent.too_large)
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
