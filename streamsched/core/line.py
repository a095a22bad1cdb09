"""A tenant's line: its due jobs in their order, out of `ready` and what the cycle brings."""

from streamsched.core import state
from streamsched.core.draft import Candidate, Draft, PartitionState
from streamsched.core.store import READY
from streamsched.core.sweep import Sweep
from streamsched.core.tenants import Tenant
from streamsched.core.trials import Suspect


class Line:
    """The lines of one partition's tenants."""

    def __init__(self, base: PartitionState, sweep: Sweep) -> None:
        """Work on `base`; `sweep` says up to where a tenant's due rows were read."""
        self._base = base
        self._sweep = sweep

    def choose(
        self, draft: Draft, tenant: Tenant, most: int, aside: dict[int, Suspect]
    ) -> tuple[list[Candidate], list[Candidate], set[int], bool]:
        """The next `most` jobs by (due, sequence) out of `ready` and this cycle's candidates.

        Those in `aside` are passed over.
        Returns them, the candidates left over, the sequences that came from `ready`, and whether
        jobs were passed over because earlier ones may still lie unread in `due`.
        """
        pool: list[Candidate] = draft.candidates.get(tenant.name, [])
        if draft.dead:
            pool = [candidate for candidate in pool if candidate[1] not in draft.dead]
        kept_back: list[Candidate] = []
        if aside:
            kept_back = [candidate for candidate in pool if candidate[1] in aside]
            pool = [candidate for candidate in pool if candidate[1] not in aside]
        from_ready: set[int] = set()
        if tenant.ready:
            waiting = self._read_ready(draft, tenant, most, aside)
            from_ready = {candidate[1] for candidate in waiting}
            pool = sorted([*waiting, *pool]) if pool else waiting
        horizon = self._sweep.horizon(tenant.name, tenant.raw, draft.now_ms)
        chosen = pool[:most]
        is_late = False
        if horizon is not None:
            kept = [candidate for candidate in chosen if candidate[:2] < horizon]
            is_late = len(kept) < len(chosen)
            chosen = kept
        return chosen, pool[len(chosen) :] + kept_back, from_ready, is_late

    def _read_ready(
        self, draft: Draft, tenant: Tenant, most: int, aside: dict[int, Suspect]
    ) -> list[Candidate]:
        """The first `most` rows of the tenant in `ready` that are not in `aside`."""
        rows: list[Candidate] = []
        lower = state.ready_key(tenant.raw, *tenant.head)
        dropped = draft.dropped
        with self._base.store.cursor(READY, lower, tenant.raw + state.AFTER_NUL) as cursor:
            while len(rows) < most and cursor.valid():
                key = cursor.key()
                if key not in dropped:
                    due_ms, sequence = state.split_ready_key(key)
                    if sequence not in aside:
                        rows.append((due_ms, sequence, state.split_ready_value(cursor.value())))
                cursor.next()
        return rows

    def passed(self, draft: Draft, tenant: Tenant, aside: dict[int, Suspect]) -> list[Suspect]:
        """Those of `aside` that are in `ready` once this cycle is applied."""
        found: list[Suspect] = []
        store = self._base.store
        for sequence, suspect in aside.items():
            key = state.ready_key(tenant.raw, *suspect.line)
            is_there = sequence in draft.fresh or store.get(READY, key) is not None
            if is_there and sequence not in draft.dead and key not in draft.dropped:
                found.append(suspect)
        return found

    def settle(
        self,
        draft: Draft,
        tenant: Tenant,
        gone: list[Candidate],
        left: list[Candidate],
        from_ready: set[int],
        aside: dict[int, Suspect],
    ) -> None:
        """Bring `ready` up to date: what left is deleted, what stays of the candidates goes in.

        What is in `aside` stays in `ready`, and `head` does not pass it.
        """
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
                for suspect in aside.values():
                    tenant.head = min(tenant.head, suspect.line)
        draft.touched.add(tenant)
        kept = [candidate for candidate in left if candidate[1] not in from_ready]
        if tenant.name in draft.candidates:
            draft.candidates[tenant.name] = []
        self.keep(draft, tenant, kept)

    def keep(self, draft: Draft, tenant: Tenant, candidates: list[Candidate]) -> None:
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
