"""Whether a store is what its changelog comes to, and does not contradict itself."""

from collections import Counter
from collections.abc import Iterator

from streamsched.core import state
from streamsched.core.partition import Partition
from streamsched.core.replay import Replay
from streamsched.core.store import DUE, JOBS, META, READY, Store
from streamsched.store.memory import MemoryStore
from tests.property.model import rows_of
from tests.sim.world import World


def rebuilt(world: World, partition: int, upto: int) -> MemoryStore:
    """A store made of the changelog alone, up to an offset."""
    store = MemoryStore()
    replay = Replay(store, world.cluster.changelog_topic_id)
    log = world.broker.log(world.names.changelog, partition)
    records = [(e.key or b"", e.value) for e in log.decided(upto)]
    replay.apply(records, upto)
    replay.finish()
    return store


def faults_of_store(world: World, it: Partition) -> Iterator[str]:
    """Where a store differs from one that is rebuilt, or contradicts itself."""
    store = it.store
    fresh = rebuilt(world, it.partition, it.changelog_offset)
    if rows_of(store, JOBS) != rows_of(fresh, JOBS):
        yield "its jobs are not those of the changelog"
    logged = {k: v for k, v in rows_of(store, META).items() if k[0] == 1}
    if logged != {k: v for k, v in rows_of(fresh, META).items() if k[0] == 1}:
        yield "its meta rows are not those of the changelog"
    yield from _faults_of_indexes(store)


class _Indexes:
    """What the indexes of a store hold, and what they should."""

    def __init__(self, store: Store) -> None:
        self.wanted: Counter[tuple[bytes, int, str]] = Counter()
        self.found: Counter[tuple[bytes, int, str]] = Counter()
        self.pending: Counter[bytes] = Counter()
        self.ready: Counter[bytes] = Counter()
        self.below_cursor: list[bytes] = []
        for key, row in rows_of(store, JOBS).items():
            tenant, _ = state.split_job_key(key)
            due_ms, sequence, expires_ms = state.job_times(row)
            self.pending[tenant] += 1
            if not expires_ms or due_ms <= expires_ms:
                self.wanted[tenant, sequence, "due"] += 1
            if expires_ms:
                self.wanted[tenant, sequence, "expiry"] += 1
        value = store.get(META, state.CURSOR_KEY)
        lowest = state.second_key(0 if value is None else state.decode_cursor(value))
        for key, value in rows_of(store, DUE).items():
            if key < lowest:
                self.below_cursor.append(key)
            tenant, _, sequence = state.split_due_key(key)
            kind, _ = state.split_due_value(value)
            self.found[tenant, sequence, "due" if kind == state.KIND_DUE else "expiry"] += 1
        for key in rows_of(store, READY):
            tenant = key.partition(state.NUL)[0]
            self.found[tenant, state.split_ready_key(key)[1], "due"] += 1
            self.ready[tenant] += 1


def _faults_of_indexes(store: Store) -> Iterator[str]:
    """Each pending job is indexed once, nothing else is, and the counts are right."""
    indexes = _Indexes(store)
    if indexes.below_cursor:
        yield f"rows of due lie below the cursor: {indexes.below_cursor}"
    if indexes.found != indexes.wanted:
        yield "its indexes are not those of its jobs"
    counts = {
        key[len(state.TENANT_PREFIX) :]: state.decode_tenant(value)[:2]
        for key, value in rows_of(store, META).items()
        if key.startswith(state.TENANT_PREFIX)
    }
    if counts != {tenant: (n, indexes.ready[tenant]) for tenant, n in indexes.pending.items()}:
        yield f"the counts of its tenants are wrong: {counts}"
