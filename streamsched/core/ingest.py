"""The first part of a cycle: ingress records become pending jobs, cancels, moves or rejections."""

from streamsched.core import outbox, state
from streamsched.core.commands import Cancel, Command, IngressRecord, Schedule
from streamsched.core.cycle import Chunk
from streamsched.core.draft import Draft, PartitionState
from streamsched.core.placement import partition_for
from streamsched.core.rejection import Reason, Rejection
from streamsched.core.state import JobRow
from streamsched.core.store import JOBS
from streamsched.core.tenants import Tenant
from streamsched.core.wire import decode

PLACEMENT_CACHE_MAX = 100_000
"""Tenants whose partition is remembered; the cache is emptied when it is full."""


class Ingest:
    """Takes chunks of ingress records into the state of one partition."""

    def __init__(self, base: PartitionState) -> None:
        """Work on `base`."""
        self._base = base
        self._placement: dict[str, tuple[int, bytes]] = {}
        """Owner of each tenant, and what its job keys begin with."""

    def run(self, draft: Draft, chunk: Chunk) -> None:
        """Decode every record, look all jobs up at once, then apply them in their order."""
        commands, keys = self._decode(draft, chunk)
        if not keys:
            return
        draft.rows.update(zip(keys, self._base.store.get_many(JOBS, keys), strict=True))
        accepted = 0
        for (offset, command), key in zip(commands, keys, strict=True):
            if isinstance(command, Schedule):
                self._schedule(draft, offset, command, key)
                accepted += 1
            else:
                self._cancel(draft, command, key)
        draft.cycle.counts["accepted"] += accepted

    def _decode(self, draft: Draft, chunk: Chunk) -> tuple[list[tuple[int, Command]], list[bytes]]:
        """The commands that this partition owns, each with its offset; and their job keys."""
        now_ms = draft.now_ms
        mine = self._base.partition
        placement = self._placement
        commands: list[tuple[int, Command]] = []
        keys: list[bytes] = []
        for record in chunk.records:
            command = decode(record, now_ms)
            if isinstance(command, Rejection):
                self._reject(draft, record, command)
                continue
            owner, prefix = placement.get(command.tenant) or self._place(command.tenant)
            if owner != mine:
                self._move(draft, record, command, owner)
                continue
            commands.append((record.offset, command))
            keys.append(prefix + command.job_id)
        return commands, keys

    def _place(self, tenant: str) -> tuple[int, bytes]:
        if len(self._placement) >= PLACEMENT_CACHE_MAX:
            self._placement.clear()
        raw = tenant.encode()
        place = (partition_for(raw, self._base.partitions), state.job_key(raw, b""))
        self._placement[tenant] = place
        return place

    def _reject(self, draft: Draft, record: IngressRecord, rejection: Rejection) -> None:
        names, partition, now_ms = self._base.names, self._base.partition, draft.now_ms
        draft.cycle.counts[f"rejected:{rejection.reason.value}"] += 1
        draft.cycle.counts["rejected"] += 1
        draft.cycle.records += (
            outbox.rejected(names, names.jobs, partition, record, rejection, now_ms),
            outbox.rejected_event(names, names.jobs, partition, record, rejection, now_ms),
        )

    def _move(self, draft: Draft, record: IngressRecord, command: Command, owner: int) -> None:
        base = self._base
        mark = command.moved
        if mark is not None and mark.partitions == base.partitions:
            self._reject(
                draft,
                record,
                Rejection(
                    Reason.MOVED_IN_CIRCLE,
                    f"moved for {mark.partitions} partitions already, yet tenant "
                    f"{command.tenant!r} belongs on partition {owner}",
                ),
            )
            return
        source = (
            outbox.source_of(base.partition, record.offset)
            if mark is None
            else outbox.source_of(mark.source_partition, mark.source_offset)
        )
        draft.cycle.counts["moved"] += 1
        draft.cycle.records.append(
            outbox.moved(base.names, record, command, owner, base.partitions, source)
        )

    def _schedule(self, draft: Draft, sequence: int, command: Schedule, key: bytes) -> None:
        base = self._base
        now_ms = draft.now_ms
        tenant = base.tenants.get(command.tenant) or base.tenant(command.tenant)
        moved = command.moved
        if moved is None:
            source_partition, source_offset = base.partition, sequence
        else:
            source_partition, source_offset = moved.source_partition, moved.source_offset
        if not tenant.seen and base.view.complete:
            draft.see(tenant)
        old = draft.rows[key]
        if old is not None:
            self._replace(draft, tenant, command.job_id, old)
        due_ms, expires_ms = command.due_ms, command.expires_ms
        if tenant.effective.all_events:
            draft.event(
                "scheduled",
                tenant.name,
                command.job_id,
                due_at=due_ms,
                source=outbox.source_of(source_partition, source_offset),
            )
        if expires_ms and expires_ms < now_ms:
            job = JobRow(
                due_ms,
                sequence,
                expires_ms,
                now_ms,
                source_offset,
                source_partition,
                command.key,
                command.headers,
                command.payload,
            )
            draft.expire(tenant, command.job_id, job)
            if old is not None:
                draft.delete_job(tenant, key)
                tenant.pending += 1  # the replacement has taken it off already
            return
        row = state.encode_job(
            due_ms,
            sequence,
            expires_ms,
            now_ms,
            source_offset,
            source_partition,
            command.key,
            command.headers,
            command.payload,
        )
        draft.rows[key] = row
        batch = draft.cycle.batch
        batch.append((JOBS, key, row))
        draft.cycle.changelog.append((key, row))
        tenant.pending += 1
        draft.touched.add(tenant)
        if expires_ms:
            draft.index(tenant, expires_ms + 1, sequence, state.expiry_value(command.job_id))
            if due_ms > expires_ms:
                return
        if due_ms > now_ms:
            draft.index(tenant, due_ms, sequence, state.due_value(command.job_id))
        else:
            draft.fresh.add(sequence)
            draft.candidates.setdefault(tenant.name, []).append((due_ms, sequence, command.job_id))

    @staticmethod
    def _replace(draft: Draft, tenant: Tenant, job_id: bytes, old: bytes) -> None:
        """Take the pending job out of the indexes; its row is left to the new one to overwrite."""
        job = state.decode_job(old)
        draft.unindex(tenant, job.due_ms, job.sequence, job.expires_ms)
        tenant.pending -= 1
        draft.touched.add(tenant)
        draft.event(
            "replaced",
            tenant.name,
            job_id,
            due_at=job.due_ms,
            source=outbox.source_of(job.source_partition, job.source_offset),
        )

    def _cancel(self, draft: Draft, command: Cancel, key: bytes) -> None:
        old = draft.rows[key]
        if old is None:
            draft.event("cancel_not_found", command.tenant, command.job_id)
            return
        tenant = self._base.tenant(command.tenant)
        job = state.decode_job(old)
        draft.unindex(tenant, job.due_ms, job.sequence, job.expires_ms)
        draft.delete_job(tenant, key)
        draft.event(
            "cancelled",
            command.tenant,
            command.job_id,
            due_at=job.due_ms,
            source=outbox.source_of(job.source_partition, job.source_offset),
        )
