"""The second part of a cycle: rows of `due` whose moment has come are taken out, in bounds.

`due` is ordered by second, tenant, millisecond and sequence. The rows of one tenant in one second
are a group. A second is opened once, when it begins: one pass over its groups takes what is due
and notes, per group that has more, where to go on: that is a run. A run is looked at again when
its next row is due. A tenant with more due rows than a cycle takes at once is behind: its groups
are worked off in their order, tenants in turn, with what the others leave of the cycle's budget
and at least a fixed share of it. So nobody waits behind another tenant's million, and a row is
not read before its moment.

Everything below the cursor (the lowest second with a run, or not yet opened, or running) is gone
from `due`, and nothing is ever written there.
Each row is deleted by its key in the batch that takes it, and no iterator starts below the first
row that is wanted, so that deleted rows are never scanned.
"""

from collections import Counter
from heapq import heappop, heappush
from typing import NamedTuple

from streamsched.core import state
from streamsched.core.draft import Draft, PartitionState
from streamsched.core.limits import (
    CYCLE_BYTES_MAX,
    DUE_GROUPS_BEHIND_MAX,
    DUE_ROWS_AT_FIRST_MAX,
    DUE_ROWS_FOR_BEHIND_MIN,
    DUE_ROWS_PER_CYCLE_MAX,
    DUE_ROWS_PER_TENANT_MAX,
)
from streamsched.core.store import DUE, JOBS, META, Cursor

_END = b"\xff" * 6
_EXPIRED_READ_ROWS = 100
"""Expired jobs whose payloads are in memory at the same time, before the bound is looked at."""

_Group = tuple[int, str]
"""A second and a tenant."""


class _Expired(NamedTuple):
    """A row of `due` that tells of a job's expiry, which has passed."""

    key: bytes
    group: _Group
    at_ms: int
    sequence: int
    job_id: bytes


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
        self._seconds: Counter[int] = Counter()
        """How many runs each second has; no zeros."""
        self._waiting: list[tuple[int, int, _Group]] = []
        """Heap of runs by the moment of their next row; valid if it equals the run."""
        self._behind: dict[str, list[int]] = {}
        """Heap of the seconds of runs whose next row is due, by tenant; tenants in turn."""
        self._groups_behind = 0

    def load(self, cursor_second: int) -> None:
        """Begin at a persisted cursor; everything open is found again from there."""
        self._written_cursor = cursor_second
        self._open_key = state.second_key(cursor_second)
        self._next_second = cursor_second
        self._runs.clear()
        self._seconds.clear()
        self._waiting.clear()
        self._behind.clear()
        self._groups_behind = 0

    def run(self, draft: Draft) -> None:
        """Take due rows into the draft's candidates; expired jobs leave at once."""
        now_ms = draft.now_ms
        expired: list[_Expired] = []
        groups = self._just_due(now_ms)
        opens = self._next_second is not None and self._next_second * 1000 <= now_ms
        if groups or opens or self._behind:
            # The cursor starts at the first row that is wanted: below it are deleted ones.
            starts = [self._run_key(group) for group in groups]
            if opens:
                starts.append(self._open_key)
            budget = DUE_ROWS_PER_CYCLE_MAX
            behind = list(self._behind.items())[:budget]
            starts.extend(self._run_key((seconds[0], name)) for name, seconds in behind)
            with self._base.store.cursor(DUE, min(starts), _END) as cursor:
                budget -= DUE_ROWS_FOR_BEHIND_MIN
                for group in groups:
                    if budget <= 0:
                        self._put_behind(group)
                        continue
                    cursor.seek(self._run_key(group))
                    self._drop_run(group)
                    limit = min(budget, DUE_ROWS_AT_FIRST_MAX)
                    budget -= self._take_group(draft, cursor, group, limit, expired)
                if opens:
                    budget = self._open(draft, cursor, now_ms // 1000, budget, expired)
                self._take_behind(draft, cursor, budget + DUE_ROWS_FOR_BEHIND_MIN, expired)
        self._notice_written(draft)
        self._expire(draft, expired)
        self._write_cursor(draft)

    def horizon(self, tenant: str, raw: bytes, now_ms: int) -> tuple[int, int] | None:
        """The first (due_ms, sequence) of the tenant that may still lie unread in `due`.

        Only while the sweep is behind; `None` says that all due rows of the tenant were read.
        """
        seconds = self._behind.get(tenant)
        found = None if seconds is None else self._runs[seconds[0], tenant]
        second = self._next_second
        if second is not None and second * 1000 <= now_ms:
            passed = state.second_key(second) + raw + state.NUL < self._open_key
            unopened = ((second + passed) * 1000, 0)
            found = unopened if found is None else min(found, unopened)
        return found

    def next_at_ms(self) -> int | None:
        """When the next row is due or its second begins; `None` where there is no row."""
        if self._behind:
            return 0
        while self._waiting:
            at_ms, sequence, group = self._waiting[0]
            if self._runs.get(group) == (at_ms, sequence):
                break
            heappop(self._waiting)
        times = [self._waiting[0][0]] if self._waiting else []
        if self._next_second is not None:
            times.append(self._next_second * 1000)
        return min(times) if times else None

    # --- runs ------------------------------------------------------------------------------

    def _run_key(self, group: _Group) -> bytes:
        at_ms, sequence = self._runs[group]
        return state.due_key(at_ms, group[1].encode(), sequence)

    def _note_run(self, group: _Group, at_ms: int, sequence: int, now_ms: int) -> None:
        """Remember where to go on in a group."""
        known = self._runs.get(group)
        if known is not None and known <= (at_ms, sequence):
            return
        self._runs[group] = (at_ms, sequence)
        if known is None:
            self._seconds[group[0]] += 1
        if at_ms > now_ms:
            heappush(self._waiting, (at_ms, sequence, group))
        elif known is None or known[0] > now_ms:
            self._put_behind(group)

    def _drop_run(self, group: _Group) -> None:
        del self._runs[group]
        second = group[0]
        self._seconds[second] -= 1
        if not self._seconds[second]:
            del self._seconds[second]

    def _put_behind(self, group: _Group) -> None:
        second, name = group
        heappush(self._behind.setdefault(name, []), second)
        self._groups_behind += 1

    def _just_due(self, now_ms: int) -> list[_Group]:
        """Runs whose next row has become due, but for tenants that are behind anyway."""
        # A run that was replaced by an earlier one and noted again stands in the heap twice.
        found: dict[_Group, None] = {}
        while self._waiting and self._waiting[0][0] <= now_ms:
            at_ms, sequence, group = heappop(self._waiting)
            if self._runs.get(group) == (at_ms, sequence):
                found[group] = None
        groups: list[_Group] = []
        for group in found:
            if group[1] in self._behind:
                self._put_behind(group)
            else:
                groups.append(group)
        return groups

    # --- passes ----------------------------------------------------------------------------

    def _open(
        self,
        draft: Draft,
        cursor: Cursor,
        now_second: int,
        budget: int,
        expired: list[_Expired],
    ) -> int:
        """Open every group up to the current second, or as many as the budget allows.

        Returns what is left of the budget.
        """
        cursor.seek(self._open_key)
        while cursor.valid():
            key = cursor.key()
            second = int.from_bytes(key[:5], "big")
            if second > now_second:
                self._open_key = state.second_key(now_second + 1)
                self._next_second = second
                return budget
            if budget <= 0 or self._groups_behind >= DUE_GROUPS_BEHIND_MAX:
                self._open_key = key[:-10]
                self._next_second = second
                return budget
            name = key[5:-11].decode()
            # Of a tenant that is behind nothing could leave before its earlier rows were read.
            limit = 0 if name in self._behind else min(budget, DUE_ROWS_AT_FIRST_MAX)
            budget -= max(1, self._take_group(draft, cursor, (second, name), limit, expired))
            if cursor.valid() and cursor.key()[:-10] == key[:-10]:
                cursor.seek(state.after_group(key))
        self._open_key = max(self._open_key, state.second_key(now_second + 1))
        self._next_second = None
        return budget

    def _take_behind(
        self, draft: Draft, cursor: Cursor, budget: int, expired: list[_Expired]
    ) -> None:
        """Let tenants that are behind have their turns, each its groups in their order."""
        for name in list(self._behind):
            if budget <= 0:
                return
            seconds = self._behind[name]
            left = min(budget, DUE_ROWS_PER_TENANT_MAX)
            budget -= left
            while seconds and left > 0:
                group = (heappop(seconds), name)
                self._groups_behind -= 1
                cursor.seek(self._run_key(group))
                self._drop_run(group)
                left -= max(1, self._take_group(draft, cursor, group, left, expired))
            budget += left
            # The tenant's next turn comes after those of all others.
            del self._behind[name]
            if seconds:
                self._behind[name] = seconds

    def _take_group(
        self, draft: Draft, cursor: Cursor, group: _Group, limit: int, expired: list[_Expired]
    ) -> int:
        """Take the group's due rows from where the cursor stands, and note a run for the rest.

        Returns how many rows were taken, at most `limit`.
        """
        second, name = group
        prefix = second.to_bytes(5, "big") + name.encode() + state.NUL
        second_ms = second * 1000
        left = limit
        taken: list[tuple[int, int, bytes]] = []
        batch = draft.cycle.batch
        dropped = draft.dropped
        now_ms = draft.now_ms
        while cursor.valid():
            key = cursor.key()
            if key[:-10] != prefix:
                break
            ms, sequence = state.split_due_tail(key)
            at_ms = second_ms + ms
            if at_ms > now_ms or left <= 0:
                self._note_run(group, at_ms, sequence, now_ms)
                break
            left -= 1
            if key not in dropped:
                kind, job_id = state.split_due_value(cursor.value())
                if kind == state.KIND_DUE:
                    batch.append((DUE, key, None))
                    taken.append((at_ms, sequence, job_id))
                else:
                    expired.append(_Expired(key, group, at_ms, sequence, job_id))
            cursor.next()
        if taken:
            draft.fresh.update([row[1] for row in taken])
            have = draft.candidates.get(name)
            draft.candidates[name] = taken if have is None else have + taken
        return limit - left

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
        """Jobs whose expiry has passed leave, wherever they are: throttled and paused ones too.

        Their payloads go to the dead letters, so what is over the bound stays for the next cycle.
        """
        size = 0
        for first in range(0, len(expired), _EXPIRED_READ_ROWS):
            if size >= CYCLE_BYTES_MAX:
                for row in expired[first:]:
                    self._note_run(row.group, row.at_ms, row.sequence, draft.now_ms)
                return
            size += self._expire_some(draft, expired[first : first + _EXPIRED_READ_ROWS])

    def _expire_some(self, draft: Draft, expired: list[_Expired]) -> int:
        """Let these jobs leave; returns the bytes of their rows."""
        base = self._base
        keys = [state.job_key(row.group[1].encode(), row.job_id) for row in expired]
        unread = [key for key in keys if key not in draft.rows]
        draft.rows.update(zip(unread, base.store.get_many(JOBS, unread), strict=True))
        size = 0
        for (due_key, group, _, sequence, job_id), key in zip(expired, keys, strict=True):
            draft.cycle.batch.append((DUE, due_key, None))
            row = draft.rows[key]
            if row is None:
                continue
            job = state.decode_job(row)
            if job.sequence != sequence:
                continue
            size += len(row)
            tenant = base.tenant(group[1])
            if job.due_ms <= job.expires_ms:
                draft.unindex(tenant, job.due_ms, job.sequence, 0)
            draft.delete_job(tenant, key)
            draft.expire(tenant, job_id, job)
        return size

    def _write_cursor(self, draft: Draft) -> None:
        # Rows of the second that is running may yet be written.
        opened = min(int.from_bytes(self._open_key[:5], "big"), draft.now_ms // 1000)
        second = min([opened, *self._seconds])
        if second > self._written_cursor:
            self._written_cursor = second
            draft.cycle.batch.append((META, state.CURSOR_KEY, state.encode_cursor(second)))
