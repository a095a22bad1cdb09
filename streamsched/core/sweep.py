"""The second part of a cycle: rows of `due` whose moment has come are taken out, in bounds.

`due` is ordered by second, tenant, millisecond and sequence. The rows of one tenant in one second
are a group. A second is opened once, when it begins: one pass over its groups takes what is due
and notes, per group that has more, where to go on: that is a run. A run is looked at again when
its next row is due, or in the next cycle if the group had more due rows than one cycle takes. So
nobody waits behind another tenant's million, and a row is not read before its moment.

Everything below the cursor (the lowest second with a run, or not yet opened) is gone from `due`.
Each row is deleted by its key in the batch that takes it, and no iterator starts below the cursor,
so that deleted rows are never scanned.
"""

from collections import deque
from heapq import heappop, heappush

from streamsched.core import state
from streamsched.core.draft import Draft, PartitionState
from streamsched.core.limits import DUE_ROWS_PER_CYCLE_MAX, DUE_ROWS_PER_GROUP_MAX
from streamsched.core.store import DUE, JOBS, META, Cursor

_END = b"\xff" * 6
_Group = tuple[int, str]
"""A second and a tenant."""
_Expired = tuple[str, bytes, int]
"""Tenant, id and sequence of a job whose expiry has passed."""


class Sweep:
    """Time order of one partition: which seconds are open, and where each group stands."""

    def __init__(self, base: PartitionState) -> None:
        """Nothing opened; `load` sets the cursor."""
        self._base = base
        self._written_cursor = 0
        self._open_key = state.second_key(0)
        """Every group below this key was opened."""
        self._next_second: int | None = 0
        """The second of the first unopened row, or one not after it; `None`: there is no row."""
        self._runs: dict[_Group, tuple[int, int]] = {}
        """Groups with rows left: due_ms and sequence to go on from."""
        self._waiting: list[tuple[int, int, _Group]] = []
        """Heap of runs by the moment of their next row; valid if it equals the run."""
        self._behind: deque[_Group] = deque()
        """Runs whose next row is due already, in the order of their turn."""

    def load(self, cursor_second: int) -> None:
        """Begin at a persisted cursor; everything open is found again from there."""
        self._written_cursor = cursor_second
        self._open_key = state.second_key(cursor_second)
        self._next_second = cursor_second
        self._runs.clear()
        self._waiting.clear()
        self._behind.clear()

    def run(self, draft: Draft) -> None:
        """Take due rows into the draft's candidates; expired jobs leave at once."""
        now_ms = draft.now_ms
        expired: list[_Expired] = []
        groups = self._due_groups(now_ms)
        opens = self._next_second is not None and self._next_second * 1000 <= now_ms
        if groups or opens:
            # The cursor starts at the first row that is needed: below it are deleted ones.
            starts = [key for key, _ in groups]
            if opens:
                starts.append(self._open_key)
            budget = DUE_ROWS_PER_CYCLE_MAX
            with self._base.store.cursor(DUE, min(starts), _END) as cursor:
                postponed: list[_Group] = []
                for key, group in groups:
                    if budget <= 0:
                        postponed.append(group)
                        continue
                    del self._runs[group]
                    cursor.seek(key)
                    budget = self._take_group(draft, cursor, group, budget, expired)
                # Those that had no turn come before those that had one.
                self._behind.extendleft(reversed(postponed))
                if opens:
                    self._open(draft, cursor, now_ms // 1000, budget, expired)
        self._notice_written(draft)
        self._expire(draft, expired)
        self._write_cursor(draft)

    def horizon(self, tenant: str, raw: bytes, now_ms: int) -> tuple[int, int] | None:
        """The first (due_ms, sequence) of the tenant that may still lie unread in `due`.

        Only while the sweep is behind; `None` says that all due rows of the tenant were read.
        """
        found = [self._runs[g] for g in self._behind if g[1] == tenant and g in self._runs]
        second = self._next_second
        if second is not None and second * 1000 <= now_ms:
            passed = state.second_key(second) + raw + state.NUL < self._open_key
            found.append(((second + passed) * 1000, 0))
        return min(found) if found else None

    def next_at_ms(self) -> int | None:
        """When the next row is due or its second begins; `None` where there is no row."""
        while self._waiting:
            at_ms, sequence, group = self._waiting[0]
            if self._runs.get(group) == (at_ms, sequence):
                break
            heappop(self._waiting)
        times = [self._waiting[0][0]] if self._waiting else []
        if self._next_second is not None:
            times.append(self._next_second * 1000)
        if self._behind:
            times.append(0)
        return min(times) if times else None

    # --- passes ----------------------------------------------------------------------------

    def _due_groups(self, now_ms: int) -> list[tuple[bytes, _Group]]:
        """Runs whose next row is due, with its key: first those just due, then those behind."""
        groups: list[_Group] = []
        while self._waiting and self._waiting[0][0] <= now_ms:
            at_ms, sequence, group = heappop(self._waiting)
            if self._runs.get(group) == (at_ms, sequence):
                groups.append(group)
        groups.extend(group for group in self._behind if group in self._runs)
        self._behind.clear()
        return [
            (state.due_key(run[0], group[1].encode(), run[1]), group)
            for group in dict.fromkeys(groups)
            for run in (self._runs[group],)
        ]

    def _cursor_second(self) -> int:
        opened = int.from_bytes(self._open_key[:5], "big")
        return min((second for second, _ in self._runs), default=opened)

    def _open(
        self,
        draft: Draft,
        cursor: Cursor,
        now_second: int,
        budget: int,
        expired: list[_Expired],
    ) -> None:
        """Open every group up to the current second, or as many as the budget allows."""
        cursor.seek(self._open_key)
        while cursor.valid():
            key = cursor.key()
            second = int.from_bytes(key[:5], "big")
            if second > now_second:
                self._open_key = state.second_key(now_second + 1)
                self._next_second = second
                return
            if budget <= 0:
                self._open_key = key[:-10]
                self._next_second = second
                return
            group = (second, key[5:-11].decode())
            budget = self._take_group(draft, cursor, group, budget, expired)
            # A run may be known already, from a row written after the cursor was persisted.
            if cursor.valid() and cursor.key()[:-10] == key[:-10]:
                cursor.seek(state.after_group(key))
        self._open_key = max(self._open_key, state.second_key(now_second + 1))
        self._next_second = None

    def _take_group(
        self,
        draft: Draft,
        cursor: Cursor,
        group: _Group,
        budget: int,
        expired: list[_Expired],
    ) -> int:
        """Take the group's due rows from where the cursor stands; note a run if more are left."""
        second, name = group
        prefix = second.to_bytes(5, "big") + name.encode() + state.NUL
        left = min(budget, DUE_ROWS_PER_GROUP_MAX)
        taken: list[tuple[int, int, bytes]] = []
        batch = draft.cycle.batch
        dropped = draft.dropped
        now_ms = draft.now_ms
        while cursor.valid():
            key = cursor.key()
            if key[:-10] != prefix:
                break
            _, at_ms, sequence = state.split_due_key(key)
            if at_ms > now_ms or left <= 0:
                self._note_run(group, at_ms, sequence, now_ms)
                break
            left -= 1
            budget -= 1
            if key not in dropped:
                batch.append((DUE, key, None))
                kind, job_id = state.split_due_value(cursor.value())
                if kind == state.KIND_DUE:
                    taken.append((at_ms, sequence, job_id))
                else:
                    expired.append((name, job_id, sequence))
            cursor.next()
        if taken:
            draft.fresh.update([row[1] for row in taken])
            have = draft.candidates.get(name)
            draft.candidates[name] = taken if have is None else have + taken
        return budget

    def _note_run(self, group: _Group, at_ms: int, sequence: int, now_ms: int) -> None:
        """Remember where to go on in a group."""
        known = self._runs.get(group)
        if known is not None and known <= (at_ms, sequence):
            return
        self._runs[group] = (at_ms, sequence)
        if at_ms <= now_ms:
            self._behind.append(group)
        else:
            heappush(self._waiting, (at_ms, sequence, group))

    # --- what the cycle itself wrote -------------------------------------------------------

    def _notice_written(self, draft: Draft) -> None:
        """Rows that this cycle writes to `due`: the cursor above did not see them."""
        first = draft.first_written_second
        if first is not None and (self._next_second is None or first < self._next_second):
            self._next_second = first
        for at_ms, tenant, sequence in draft.written:
            group = (at_ms // 1000, tenant)
            key = state.due_key(at_ms, tenant.encode(), sequence)
            if key < self._open_key:
                self._note_run(group, at_ms, sequence, draft.now_ms)
            elif self._next_second is None or group[0] < self._next_second:
                self._next_second = group[0]

    def _expire(self, draft: Draft, expired: list[_Expired]) -> None:
        """Jobs whose expiry has passed leave, wherever they are: throttled and paused ones too."""
        if not expired:
            return
        base = self._base
        keys = [state.job_key(name.encode(), job_id) for name, job_id, _ in expired]
        unread = [key for key in keys if key not in draft.rows]
        draft.rows.update(zip(unread, base.store.get_many(JOBS, unread), strict=True))
        for (name, job_id, sequence), key in zip(expired, keys, strict=True):
            row = draft.rows[key]
            if row is None:
                continue
            job = state.decode_job(row)
            if job.sequence != sequence:
                continue
            tenant = base.tenant(name)
            if job.due_ms <= job.expires_ms:
                draft.unindex(tenant, job.due_ms, job.sequence, 0)
            draft.delete_job(tenant, key)
            draft.expire(tenant, job_id, job)

    def _write_cursor(self, draft: Draft) -> None:
        second = self._cursor_second()
        if second > self._written_cursor:
            self._written_cursor = second
            draft.cycle.batch.append((META, state.CURSOR_KEY, state.encode_cursor(second)))
