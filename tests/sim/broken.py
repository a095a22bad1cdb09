"""Protocols that are broken on purpose, each in the way that its name says.

Each replaces as little as possible of the real code. Where two of our safeguards stand behind
each other, so that taking one away does no harm, all of them are taken away, and it is said which.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaException

from streamsched.core import state
from streamsched.core.cycle import Cycle
from streamsched.core.draft import Draft
from streamsched.core.ingest import Ingest
from streamsched.core.limits import PROOFS_NEEDED
from streamsched.core.partition import Partition
from streamsched.core.store import DUE, META, Store
from streamsched.core.trials import Trial
from streamsched.engine.producer import CALL_SECONDS, CycleFailedError, PartitionProducer
from streamsched.engine.runner import Runner
from tests.sim.disk import Disk, SimStores
from tests.sim.process import SimRunners
from tests.sim.protocol import Protocol
from tests.sim.scenario import Aim


class AppliesFirst(Runner):
    """Writes the store, then commits."""

    async def _commit(self, cycle: Cycle) -> int:
        if self.partition is not None:
            self.partition.store.write(cycle.batch)
        return await super()._commit(cycle)


class NotFenced(PartitionProducer):
    """Has a transactional id of its own, so that nobody else's transaction is ended."""

    identities = 0

    async def fence(self, is_wanted: Callable[[], bool]) -> bool:
        NotFenced.identities += 1
        client: Any = self._producer
        client.identity += f"-{NotFenced.identities}"
        return await super().fence(is_wanted)


class FencesLate(PartitionProducer):
    """`fence` does nothing yet."""

    async def fence(self, is_wanted: Callable[[], bool]) -> bool:
        return is_wanted()

    async def fence_now(self) -> None:
        """What should have come first."""
        await super().fence(lambda: True)


class FencesAfterReading(Runner):
    """Reads the changelog to its end, then fences."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        read = self.state.recover

        async def read_then_fence(is_wanted: Callable[[], bool]) -> Store:
            store = await read(is_wanted)
            if isinstance(self._producer, FencesLate):
                await self._producer.fence_now()
            return store

        self.state.recover = read_then_fence


def _write_limiter_locally(self: Draft, tenant: Any) -> None:
    value = state.encode_limiter(tenant.pace, tenant.at_ticks or 0)
    self.cycle.batch.append((META, state.LIMITER_PREFIX + tenant.raw, value))


class SwallowsErrors(PartitionProducer):
    """Goes on to the next record when `produce` raises."""

    def _produce(self, cycle: Cycle) -> None:
        client: Any = self._producer
        produce = client.produce

        def carelessly(*arguments: Any, **more: Any) -> None:
            try:
                produce(*arguments, **more)
            except (KafkaException, BufferError):
                if "on_delivery" in more and more.get("timestamp") is None:
                    raise

        client.produce = carelessly
        try:
            super()._produce(cycle)
        finally:
            del client.produce


class AbortsDoubtful(PartitionProducer):
    """Takes a commit that timed out for one that failed.

    The real producer's abort would then answer a conflict, upon which the runner begins again at
    the fence and finds the truth in the changelog. So this one takes the conflict for an abort
    that is done, and goes on with a client made anew.
    """

    async def _commit(self) -> None:
        client: Any = self._producer
        try:
            await self._call(client.commit_transaction, CALL_SECONDS)
        except KafkaException as exception:
            error = exception.args[0]
            if error.fatal() or not (error.retriable() or error.txn_requires_abort()):
                await super()._commit()
                return
            try:
                await self._call(client.abort_transaction, CALL_SECONDS)
            except KafkaException:
                self._producer = client.made_anew()
                await self._call(self._producer.init_transactions, CALL_SECONDS)
            raise CycleFailedError(f"commit: {error.str()}") from exception


_schedule = Ingest._schedule


def _schedule_below_cursor(
    self: Ingest, draft: Draft, sequence: int, command: Any, key: bytes
) -> None:
    """Files what is past due on arrival under its due time, like everything else.

    The sweep would be told of rows that a cycle writes for seconds that have begun; not of these.
    """
    _schedule(self, draft, sequence, command, key)
    candidates = draft.candidates.get(command.tenant, [])
    late = (command.due_ms, sequence, command.job_id)
    if late in candidates:
        candidates.remove(late)
        draft.fresh.discard(sequence)
        raw = command.tenant.encode()
        value = state.due_value(command.job_id)
        draft.cycle.batch.append((DUE, state.due_key(command.due_ms, raw, sequence), value))


class SharedStores(SimStores):
    """Hands an open store of the process to whoever asks next, as if nobody ever let go."""

    def __init__(self, disk: Disk, effect: Callable[[str], None]) -> None:
        super().__init__(disk, effect)
        self._kept: dict[int, Any] = {}

    def open(self, partition: int) -> Any:
        """The one that is open already, if there is one."""
        if partition not in self._kept:
            store = super().open(partition)
            store.close = lambda: None
            self._kept[partition] = store
        return self._kept[partition]

    def destroy(self, partition: int) -> None:
        """Empty it; it stays open."""
        if partition in self._kept:
            self._kept[partition].begin_load()


class AppliesLate(Runner):
    """Applies what was committed, whatever has happened to the partition meanwhile.

    Four safeguards stand behind each other here: a runner that is stopped is cancelled, its store
    is closed, a lost generation is noticed before the apply, and a cycle of another base is
    refused. All four are gone.
    """

    async def stop(self, seconds: float) -> None:
        del seconds
        self._stopping = True
        self._wake.set()

    async def _one_cycle(self, partition: Partition, chunk: Any) -> Cycle | None:
        cycle = partition.run_once(self._read_clock(partition), chunk)
        changelog_offset = None
        if cycle.needs_transaction:
            try:
                changelog_offset = await self._commit(cycle)
            except CycleFailedError as error:
                await self._after_failure(partition, cycle, error)
                return None
        cycle.base_changelog_offset = partition.changelog_offset
        if changelog_offset is not None:
            # Behind what the other owner has written, the core would refuse it for that.
            changelog_offset = max(changelog_offset, partition.changelog_offset + 1)
        partition.commit(cycle, changelog_offset)
        return cycle


_refuse = Trial.refuse


def _condemn_at_once(self: Trial, probe: Any, words: str, now_ms: int) -> None:
    """Takes one refusal for the job's fault, without waiting for another job to be taken."""
    _refuse(self, probe, words, now_ms)
    for suspect in self.suspects.values():
        suspect.proofs = PROOFS_NEEDED


@dataclass(frozen=True)
class Broken:
    """A broken protocol, where to look for the harm, and the words in which a judge tells it."""

    protocol: Protocol
    aim: Aim
    harm: str
    """A regular expression. What only a look inside finds does not count."""


def _broken(aim: Aim, harm: str, **parts: Any) -> Broken:
    return Broken(Protocol(**{"runners": SimRunners, "stores": SimStores, **parts}), aim, harm)


LOST = "ended as nothing"
TWICE = "ended as dispatched and|accepted twice|of Counter|moved exactly once"
TAKEOVERS = ("freeze", "deafen", "rebalance", "crash")

BROKEN: dict[str, Broken] = {
    "store written before commit": _broken(
        Aim(("commit is refused", "crash"), ("crash", "rebalance")), LOST, runner=AppliesFirst
    ),
    "producer not fenced": _broken(
        Aim(("commit is lost",), ("freeze", "deafen")), TWICE, producer=NotFenced
    ),
    "fence after reading the end": _broken(
        Aim(("changelog is unreadable",), ("deafen", "rebalance")),
        TWICE,
        runner=FencesAfterReading,
        producer=FencesLate,
    ),
    "limiter not in the transaction": _broken(
        Aim((), ("lose disk",), ("1/s", "2/s", "1/2s"), 0.0),
        "dispatches in",
        patches=((Draft, "write_limiter", _write_limiter_locally),),
    ),
    "produce exception swallowed": _broken(Aim(("produce raises",)), LOST, producer=SwallowsErrors),
    "abort after a timed-out commit": _broken(
        Aim(("answer to commit is lost", "commit is lost")), TWICE, producer=AbortsDoubtful
    ),
    "row written under the cursor": _broken(
        Aim(), LOST, patches=((Ingest, "_schedule", _schedule_below_cursor),)
    ),
    "job given up for its topic": _broken(
        Aim((), ("refuse",)),
        "is undeliverable, but",
        patches=((Trial, "refuse", _condemn_at_once),),
    ),
    "apply without the base check": _broken(
        Aim(("answer to commit is late",), ("rebalance",)),
        f"{LOST}|{TWICE}",
        runner=AppliesLate,
        stores=SharedStores,
    ),
}
