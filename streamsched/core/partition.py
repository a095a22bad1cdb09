"""One partition of the scheduler: pending jobs, their tenants, and the cycle that moves them on."""

from heapq import heappop

from streamsched.core import state
from streamsched.core.cycle import Chunk, Cycle
from streamsched.core.destinations import Directory
from streamsched.core.dispatch import Dispatch
from streamsched.core.draft import Draft, PartitionState
from streamsched.core.ingest import Ingest
from streamsched.core.judging import note_commit, note_refusal
from streamsched.core.limits import IDLE_WAKE_MS_MAX, INGEST_CATCH_UP_MS_MAX
from streamsched.core.names import DEFAULT_TENANT, TopicNames
from streamsched.core.settings_changes import SettingsChanges
from streamsched.core.settings_view import SettingsView
from streamsched.core.state import Position
from streamsched.core.store import META, Store
from streamsched.core.sweep import Sweep
from streamsched.core.tenant_settings import (
    NOTHING,
    InvalidSettings,
    OwnSettings,
    decode_settings,
    merge,
)
from streamsched.core.tenants import Tenant


class CycleRefusedError(Exception):
    """A cycle was asked for, or applied, out of order; the text says what was expected."""


class Partition:
    """Due order, limiter and state of one partition. Takes `now`; does no I/O but store reads.

    `run_once` decides, the caller commits, then `commit` applies; if the transaction failed,
    `abort` returns to what the store says. A cycle must be finished before the next one begins.

    Not thread-safe: one caller at a time.
    """

    def __init__(
        self,
        partition: int,
        partitions: int,
        names: TopicNames,
        store: Store,
        view: SettingsView,
        directory: Directory,
        *,
        topic_id: str = "",
        changelog_topic_id: str = "",
    ) -> None:
        """Take over `store`. The topic ids are kept in the state (empty: not known)."""
        self._store = store
        self._topic_id = topic_id
        self._changelog_topic_id = changelog_topic_id
        self._base = PartitionState(partition, partitions, names, store, view, directory)
        self._ingest = Ingest(self._base)
        self._sweep = Sweep(self._base)
        self._dispatch = Dispatch(self._base, self._sweep)
        self._settings = SettingsChanges(self._base, self._dispatch)
        self._open_cycle: Cycle | None = None
        self._start_offset = 0
        self._catch_up_to = 0
        self._catch_up_since_ms = 0
        self._catch_up_until_ms: int | None = None
        self.load()

    # --- what there is ---------------------------------------------------------------------

    @property
    def partition(self) -> int:
        """Its number."""
        return self._base.partition

    @property
    def store(self) -> Store:
        """The store that it was given."""
        return self._store

    @property
    def next_offset(self) -> int:
        """The ingress offset that the next chunk starts at."""
        return self._next_offset

    @property
    def changelog_offset(self) -> int:
        """The changelog offset after the last record that the store contains."""
        return self._changelog_mark()[0]

    @property
    def last_now_ms(self) -> int:
        """`now` of the last cycle."""
        return self._base.last_now_ms

    @property
    def position(self) -> Position | None:
        """The state's position as last committed, with the id of the ingress topic."""
        value = self._store.get(META, state.POSITION_KEY)
        return None if value is None else state.decode_position(value)

    @property
    def changelog_topic_id(self) -> str:
        """Id of the changelog topic that the local state was built from; empty if unknown."""
        return self._changelog_mark()[1]

    @property
    def settings_offset(self) -> int:
        """The highest settings offset that the state contains; the view must have reached it."""
        offsets = [tenant.own_offset for tenant in self._base.tenants.values()]
        return max([self._base.default_offset, *offsets])

    @property
    def settings_topic_id(self) -> str:
        """The settings topic that `settings_offset` is of; empty if unknown."""
        return self._base.settings_topic_id or self._base.view.topic_id

    @property
    def tenants(self) -> dict[str, Tenant]:
        """The tenants in memory, for reading."""
        return self._base.tenants

    def job(self, tenant: str, job_id: str) -> state.JobRow | None:
        """A pending job, or `None`."""
        row = self._store.get("jobs", state.job_key(tenant.encode(), job_id.encode()))
        return None if row is None else state.decode_job(row)

    # --- life cycle ------------------------------------------------------------------------

    def load(self) -> None:
        """Read the memory's part of the state from the store."""
        base = self._base
        get = self._store.get
        base.tenants.clear()
        base.turns.clear()
        base.parked.clear()
        base.default, base.default_offset, base.default_invalid = NOTHING, -1, False
        value = get(META, state.SETTINGS_TOPIC_KEY)
        base.settings_topic_id = "" if value is None else state.decode_settings_topic(value)
        base.view_version = 0
        base.directory_version = -1
        value = get(META, state.POSITION_KEY)
        self._next_offset = self._start_offset
        if value is not None:
            position = state.decode_position(value)
            self._next_offset = position.next_offset
            base.last_now_ms = max(base.last_now_ms, position.now_ms)
        value = get(META, state.NOW_KEY)
        if value is not None:
            base.last_now_ms = max(base.last_now_ms, state.decode_now(value))
        value = get(META, state.CURSOR_KEY)
        self._sweep.load(0 if value is None else state.decode_cursor(value))
        self._load_settings()
        self._load_tenants()
        self._open_cycle = None

    def _load_settings(self) -> None:
        base = self._base
        key = state.SETTINGS_PREFIX + DEFAULT_TENANT.encode()
        value = self._store.get(META, key)
        if value is not None:
            base.default_offset, record = state.decode_own_settings(value)
            base.default = self._read_settings(record)
        for name, value in self._scan_meta(state.SETTINGS_PREFIX):
            if name == DEFAULT_TENANT:
                continue
            tenant = base.tenant(name)
            tenant.own_offset, record = state.decode_own_settings(value)
            tenant.own = self._read_settings(record)
            tenant.effective = merge(tenant.own, base.default, name, base.names)
            tenant.pace = tenant.effective.pace
            tenant.blocked = "paused" if tenant.effective.paused else ""

    def _load_tenants(self) -> None:
        base = self._base
        for name, value in self._scan_meta(state.LIMITER_PREFIX):
            tenant = base.tenant(name)
            tenant.pace, at_ticks = state.decode_limiter(value)
            tenant.at_ticks = None if tenant.pace is None else at_ticks
            tenant.seen = True
        for name, value in self._scan_meta(state.TENANT_PREFIX):
            tenant = base.tenant(name)
            tenant.pending, tenant.ready, tenant.head = state.decode_tenant(value)
            if tenant.ready and not tenant.blocked:
                base.give_turn(tenant, base.last_now_ms)

    def _read_settings(self, record: bytes) -> OwnSettings:
        try:
            return decode_settings(record, self._base.names)
        except InvalidSettings as error:
            raise state.UnknownVersion(
                f"settings in the state of partition {self.partition} cannot be read: {error}"
            ) from error

    def _scan_meta(self, prefix: bytes) -> list[tuple[str, bytes]]:
        found: list[tuple[str, bytes]] = []
        upper = prefix[:-1] + bytes([prefix[-1] + 1])
        with self._store.cursor(META, prefix, upper) as cursor:
            while cursor.valid():
                found.append((cursor.key()[len(prefix) :].decode(), cursor.value()))
                cursor.next()
        return found

    def start_at(self, offset: int) -> None:
        """Begin at an ingress offset; only for a state that has no position yet."""
        if self.position is not None:
            raise CycleRefusedError(
                f"partition {self.partition} has a position, it goes on at {self._next_offset}"
            )
        self._start_offset = self._next_offset = offset

    def hold_dispatch_until(
        self, ingress_end: int, now_ms: int, wait_ms_max: int = INGEST_CATCH_UP_MS_MAX
    ) -> None:
        """After a takeover or a stall: nothing leaves before ingest has reached `ingress_end`.

        A cancel that was acknowledged in time is thereby seen in time. The wait is bounded by
        `wait_ms_max`, and by `INGEST_CATCH_UP_MS_MAX` however often it is called before it is over.
        """
        now_ms = max(now_ms, self._base.last_now_ms)
        if self._catch_up_until_ms is None:
            self._catch_up_since_ms = now_ms
        self._catch_up_to = ingress_end
        until_ms = min(now_ms + wait_ms_max, self._catch_up_since_ms + INGEST_CATCH_UP_MS_MAX)
        self._catch_up_until_ms = max(until_ms, self._catch_up_until_ms or 0)

    # --- the cycle -------------------------------------------------------------------------

    def run_once(self, now_ms: int, chunk: Chunk | None = None) -> Cycle:
        """Decide one bounded step at `now_ms` (epoch ms; an earlier one than last counts as last).

        `chunk` must start where the last one ended. Raises `CycleRefusedError` where it does not,
        or where the last cycle was neither committed nor aborted.
        """
        base = self._base
        if self._open_cycle is not None:
            raise CycleRefusedError("the last cycle was neither committed nor aborted")
        next_offset = self._next_offset
        if chunk is not None and chunk.from_offset != next_offset:
            raise CycleRefusedError(
                f"partition {base.partition} is to go on at ingress offset {next_offset}, "
                f"the chunk starts at {chunk.from_offset}"
            )
        now_ms = max(now_ms, base.last_now_ms)
        cycle = Cycle(self.changelog_offset, now_ms)
        draft = Draft(base, cycle)
        self._open_cycle = cycle
        base.cycle_count += 1
        self._settings.run(draft)
        self._dispatch.unpark(now_ms)
        advanced = False
        if chunk is not None:
            self._ingest.run(draft, chunk)
            advanced = chunk.next_offset != next_offset
            next_offset = chunk.next_offset
        self._sweep.run(draft)
        is_open = self._may_dispatch(now_ms, next_offset)
        self._dispatch.run(draft, is_open=is_open)
        cycle.next_offset = next_offset
        self._write_tenants(draft)
        if advanced or cycle.needs_transaction:
            position = Position(next_offset, now_ms, self._topic_id)
            draft.write_state(META, state.POSITION_KEY, state.encode_position(position))
        elif cycle.batch:
            # Rows that were moved out of `due` as past must stay past, whatever the clock says
            # after a restart.
            cycle.batch.append((META, state.NOW_KEY, state.encode_now(now_ms)))
        cycle.wake_at_ms = self._wake_at_ms(now_ms, is_open=is_open)
        base.last_now_ms = now_ms
        return cycle

    def commit(self, cycle: Cycle, changelog_offset: int | None = None) -> None:
        """Apply a cycle whose transaction is committed.

        `changelog_offset` is the offset after the transaction's last changelog record, `None`
        for a cycle that needed no transaction. Raises `CycleRefusedError` for any other cycle
        than the one in progress, and if the store has moved on from the cycle's base.
        """
        base_offset = self.changelog_offset
        if cycle is not self._open_cycle or cycle.base_changelog_offset != base_offset:
            raise CycleRefusedError(
                f"the cycle is based on changelog offset {cycle.base_changelog_offset}, "
                f"the state of partition {self.partition} is at {base_offset}"
            )
        if cycle.needs_transaction:
            if changelog_offset is None or changelog_offset <= base_offset:
                raise CycleRefusedError("a committed transaction must move the changelog on")
            value = state.encode_changelog_offset(changelog_offset, self._changelog_topic_id)
            cycle.batch.append((META, state.CHANGELOG_KEY, value))
            self._next_offset = cycle.next_offset
        if cycle.batch:
            self._store.write(cycle.batch)
        self._open_cycle = None
        for name in note_commit(self._base, cycle):
            if self._dispatch.try_again(name, cycle.now_ms):
                cycle.wake_at_ms = min(cycle.wake_at_ms, cycle.now_ms)

    def note_refusal(self, cycle: Cycle, topic: str, words: str, *, of_record: bool) -> bool:
        """The transaction of `cycle` failed because records for `topic` were refused.

        `words` are the broker's; `of_record` says that they may be about what is in a record, not
        about the topic. To be followed by `abort`. Returns whether the next cycle is another one,
        in which somebody else's jobs or fewer of them go to the topic; if not, the topic must be
        left alone for a while.
        """
        return note_refusal(self._base, cycle, topic, words, of_record=of_record)

    def abort(self, cycle: Cycle) -> None:
        """Forget a cycle whose transaction was not committed."""
        if cycle is not self._open_cycle:
            raise CycleRefusedError("only the cycle in progress can be aborted")
        self.load()

    def _changelog_mark(self) -> tuple[int, str]:
        """Offset and topic id as the store has them, which another owner may have moved on."""
        value = self._store.get(META, state.CHANGELOG_KEY)
        return (0, "") if value is None else state.decode_changelog_offset(value)

    def _may_dispatch(self, now_ms: int, next_offset: int) -> bool:
        if self._catch_up_until_ms is not None:
            if now_ms >= self._catch_up_until_ms or self._next_offset >= self._catch_up_to:
                self._catch_up_until_ms = None
            # The cycle may yet be aborted, so that the end it reaches does not count for the next.
            elif next_offset < self._catch_up_to:
                return False
        return self._base.view.complete

    def _write_tenants(self, draft: Draft) -> None:
        for tenant in draft.touched:
            key = state.TENANT_PREFIX + tenant.raw
            value = None
            if tenant.pending:
                self._dispatch.prepare(tenant)
                value = state.encode_tenant(tenant.pending, tenant.ready, tenant.head)
            draft.cycle.batch.append((META, key, value))

    def _wake_at_ms(self, now_ms: int, *, is_open: bool) -> int:
        """The next moment at which there is something to do, never further than the idle bound."""
        wake_at_ms = now_ms + IDLE_WAKE_MS_MAX
        row_at_ms = self._sweep.next_at_ms()
        if row_at_ms is not None:
            wake_at_ms = min(wake_at_ms, row_at_ms)
        base = self._base
        turns = base.turns
        while turns and base.tenants[turns[0][2]].turn_at_ms != turns[0][0]:
            heappop(turns)
        if turns and is_open:
            wake_at_ms = min(wake_at_ms, turns[0][0])
        if self._catch_up_until_ms is not None:
            wake_at_ms = min(wake_at_ms, self._catch_up_until_ms)
        return wake_at_ms
