"""The brokers of a cluster: topics, and the coordinator of transactions with its fencing."""

import random
from collections.abc import Callable

from streamsched.core.placement import murmur2
from tests.sim.log import ABORTED, OPEN, Entry, Headers, PartitionLog, Topic, Transaction
from tests.sim.loop import SimLoop

MARKER_SECONDS_MAX = 0.02
"""How long it takes at most until the markers of a decided transaction are written."""


class Coordinated:
    """What the coordinator knows of one transactional id."""

    __slots__ = ("busy_until", "epoch", "transaction")

    def __init__(self) -> None:
        self.epoch = -1
        self.transaction: Transaction | None = None
        self.busy_until = 0.0
        """Until then it answers that the former transaction is still being ended."""


class Broker:
    """All of the cluster. Time is that of the loop; nothing in here belongs to a process."""

    def __init__(self, loop: SimLoop, rng: random.Random, transaction_seconds: float) -> None:
        self.loop = loop
        self.rng = rng
        self.transaction_seconds = transaction_seconds
        self.topics: dict[str, Topic] = {}
        self.ids: dict[str, Coordinated] = {}
        self.transactions = 0
        self.on_append: dict[str, dict[Callable[[], None], None]] = {}
        self.takes_poison: set[str] = set()
        """Topics whose records are not checked."""
        self.marker_seconds_max = MARKER_SECONDS_MAX

    # --- topics ----------------------------------------------------------------------------

    def create(self, name: str, partitions: int) -> Topic:
        """Create a topic, unless it is there."""
        topic = self.topics.get(name)
        if topic is None:
            topic = Topic(name, [PartitionLog(name, p) for p in range(partitions)])
            self.topics[name] = topic
        return topic

    def log(self, name: str, partition: int = 0) -> PartitionLog:
        """One partition of a topic."""
        return self.topics[name].partitions[partition]

    def place(self, name: str, partition: int, key: bytes | None) -> PartitionLog:
        """The partition that a producer writes to; -1 leaves it to murmur2 of the key."""
        logs = self.topics[name].partitions
        if partition < 0:
            partition = self.rng.randrange(len(logs)) if key is None else murmur2(key) % len(logs)
        return logs[partition]

    def append(
        self,
        log: PartitionLog,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        timestamp: int,
        transaction: Transaction | None = None,
    ) -> int:
        """Write one record."""
        now = self.loop.time()
        offset = log.append(Entry(0, key, value, headers, timestamp, now, transaction))
        if transaction is None:
            self._tell(log.topic)
        return offset

    def _tell(self, topic: str) -> None:
        for waiting in self.on_append.pop(topic, {}):
            waiting()

    # --- transactions ----------------------------------------------------------------------

    def begin(self, by: str) -> Transaction:
        """Open a transaction that the coordinator knows nothing of yet."""
        self.transactions += 1
        return Transaction(by, self.transactions)

    def initialise(self, transactional_id: str) -> int | None:
        """Fence: end what is open and raise the epoch. `None` while that takes its time."""
        known = self.ids.setdefault(transactional_id, Coordinated())
        now = self.loop.time()
        if known.transaction is not None:
            known.epoch += 1
            self._decide(known, ABORTED)
            return None
        if now < known.busy_until:
            return None
        known.epoch += 1
        return known.epoch

    def is_current(self, transactional_id: str, epoch: int) -> bool:
        """Whether a producer with that epoch may still write."""
        return self.ids[transactional_id].epoch == epoch

    def is_busy(self, transactional_id: str) -> bool:
        """Whether the markers of the last transaction are still being written."""
        return self.loop.time() < self.ids[transactional_id].busy_until

    def register(self, transactional_id: str, transaction: Transaction) -> None:
        """A transaction has its first record; from here on it can time out."""
        self.ids[transactional_id].transaction = transaction
        self.loop.post(
            None, self.transaction_seconds, self._time_out, transactional_id, transaction
        )

    def end(self, transactional_id: str, transaction: Transaction, outcome: str) -> None:
        """Decide an open transaction; its markers follow."""
        known = self.ids[transactional_id]
        if known.transaction is not transaction:
            raise AssertionError("the coordinator was asked to end what it does not know")
        self._decide(known, outcome)

    def end_of_outsider(self, transaction: Transaction, outcome: str) -> None:
        """End a transaction of somebody who is no scheduler."""
        self._mark(transaction, outcome)

    def _time_out(self, transactional_id: str, transaction: Transaction) -> None:
        known = self.ids[transactional_id]
        if known.transaction is transaction and transaction.state == OPEN:
            known.epoch += 1
            self._decide(known, ABORTED)

    def _decide(self, known: Coordinated, outcome: str) -> None:
        transaction = known.transaction
        if transaction is None:
            return
        known.transaction = None
        transaction.decided = outcome
        seconds = self.rng.random() * self.marker_seconds_max
        known.busy_until = self.loop.time() + seconds
        self.loop.post(None, seconds, self._mark, transaction, outcome)

    def _mark(self, transaction: Transaction, outcome: str) -> None:
        transaction.state = transaction.decided = outcome
        now = self.loop.time()
        for log in sorted(transaction.places, key=lambda log: (log.topic, log.partition)):
            log.append(Entry(0, None, None, (), 0, now, transaction, is_marker=True))
            self._tell(log.topic)
