"""Building a partition's store from its changelog.

Only `jobs`, limiters, settings and the position are in the changelog; the indexes and the counts
are derived here. A store that was empty takes the rows as they come and is indexed once at the
end; a store that has state already keeps its indexes right with every record of the tail.
"""

from collections import Counter
from collections.abc import Sequence

from streamsched.core import state
from streamsched.core.store import DUE, JOBS, META, READY, Store, Write

INDEX_BATCH_ROWS = 10_000
"""Rows that one write of the final indexing takes."""

ChangelogRecord = tuple[bytes, bytes | None]
"""Key and value; a value of `None` is a tombstone."""


class Replay:
    """Applies changelog records to a store, in order and in batches."""

    def __init__(self, store: Store, changelog_topic_id: str) -> None:
        """Go on from what `store` contains."""
        self._store = store
        self._topic_id = changelog_topic_id
        value = store.get(META, state.CHANGELOG_KEY)
        self.next_offset = 0 if value is None else state.decode_changelog_offset(value)[0]
        """The changelog offset to read next."""
        self._fresh = value is None
        if self._fresh:
            store.wipe()

    def apply(self, records: Sequence[ChangelogRecord], next_offset: int) -> None:
        """Apply records that end before `next_offset`.

        Raises `state.UnknownVersion` for a value that a newer streamsched wrote.
        """
        batch: list[Write] = []
        if not self._fresh:
            batch = self._tail_batch(records)
            batch.append(self._offset_row(next_offset))
        else:
            for key, value in records:
                if value is not None and value[0] != state.VERSION:
                    state.decode_job(value)
                batch.append((META if key[0] <= 2 else JOBS, key, value))
        self._store.write(batch)
        self.next_offset = next_offset

    def finish(self) -> None:
        """Index what a fresh store has taken in; harmless when there is nothing to do."""
        if not self._fresh:
            return
        pending: Counter[bytes] = Counter()
        batch: list[Write] = []
        with self._store.cursor(JOBS, b"", b"\xff") as cursor:
            while cursor.valid():
                tenant, job_id = state.split_job_key(cursor.key())
                pending[tenant] += 1
                batch.extend(_index_rows(tenant, job_id, cursor.value()))
                if len(batch) >= INDEX_BATCH_ROWS:
                    self._store.write(batch)
                    batch = []
                cursor.next()
        for tenant, count in pending.items():
            value = state.encode_tenant(count, 0, (0, 0))
            batch.append((META, state.TENANT_PREFIX + tenant, value))
        # The offset comes last: a store that was not finished is taken for an empty one.
        batch.append(self._offset_row(self.next_offset))
        self._store.write(batch)
        self._fresh = False

    def _offset_row(self, next_offset: int) -> Write:
        value = state.encode_changelog_offset(next_offset, self._topic_id)
        return META, state.CHANGELOG_KEY, value

    def _tail_batch(self, records: Sequence[ChangelogRecord]) -> list[Write]:
        """The writes of one stretch of the tail. A key's last record counts, as in compaction."""
        last = dict(records)
        batch: list[Write] = []
        keys = [key for key in last if key[0] > 2]
        batch.extend((META, key, value) for key, value in last.items() if key[0] <= 2)
        counts: dict[bytes, tuple[int, int, tuple[int, int]]] = {}
        earliest: int | None = None
        for key, old in zip(keys, self._store.get_many(JOBS, keys), strict=True):
            tenant, job_id = state.split_job_key(key)
            pending, ready, head = counts.get(tenant) or self._counts(tenant)
            if old is not None:
                pending -= 1
                if self._drop_index_rows(batch, tenant, old):
                    ready -= 1
            new = last[key]
            batch.append((JOBS, key, new))
            if new is not None:
                pending += 1
                rows = _index_rows(tenant, job_id, new)
                batch.extend(rows)
                second = min(int.from_bytes(row[1][:5], "big") for row in rows)
                earliest = second if earliest is None else min(earliest, second)
            counts[tenant] = (pending, ready, head)
        for tenant, (pending, ready, head) in counts.items():
            value = state.encode_tenant(pending, ready, head) if pending else None
            batch.append((META, state.TENANT_PREFIX + tenant, value))
        cursor = self._store.get(META, state.CURSOR_KEY)
        if earliest is not None and cursor and earliest < state.decode_cursor(cursor):
            batch.append((META, state.CURSOR_KEY, state.encode_cursor(earliest)))
        return batch

    def _counts(self, tenant: bytes) -> tuple[int, int, tuple[int, int]]:
        value = self._store.get(META, state.TENANT_PREFIX + tenant)
        return (0, 0, (0, 0)) if value is None else state.decode_tenant(value)

    def _drop_index_rows(self, batch: list[Write], tenant: bytes, row: bytes) -> bool:
        """Delete a job's index rows; returns whether it stood in `ready`."""
        due_ms, sequence, expires_ms = state.job_times(row)
        batch.append((DUE, state.due_key(due_ms, tenant, sequence), None))
        if expires_ms:
            batch.append((DUE, state.due_key(expires_ms + 1, tenant, sequence), None))
        key = state.ready_key(tenant, due_ms, sequence)
        if self._store.get(READY, key) is None:
            return False
        batch.append((READY, key, None))
        return True


def _index_rows(tenant: bytes, job_id: bytes, row: bytes) -> list[Write]:
    """The rows of `due` for a pending job. Raises `state.UnknownVersion`."""
    due_ms, sequence, expires_ms = state.job_times(row)
    rows: list[Write] = []
    if expires_ms:
        key = state.due_key(expires_ms + 1, tenant, sequence)
        rows.append((DUE, key, state.expiry_value(job_id)))
    if not expires_ms or due_ms <= expires_ms:
        rows.append((DUE, state.due_key(due_ms, tenant, sequence), state.due_value(job_id)))
    return rows
