"""The metrics of a scheduler process. All names are here; docs/metrics.md explains them."""

from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from streamsched.core.cycle import Cycle

LATENESS_BUCKETS_SECONDS: Final = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip

OUTCOMES: Final = (
    "accepted",
    "moved",
    "dispatched",
    "cancelled",
    "cancel_not_found",
    "replaced",
    "expired",
    "undeliverable",
)


class MillisecondHistogram(Collector):
    """A histogram that takes a whole cycle's milliseconds at once."""

    def __init__(self, name: str, documentation: str) -> None:
        """`name` ends in `_seconds`, the unit that is shown."""
        self._name = name
        self._documentation = documentation
        self._bounds_ms = [int(seconds * 1000) for seconds in LATENESS_BUCKETS_SECONDS]
        self._counts = [0] * (len(self._bounds_ms) + 1)
        self._sum_ms = 0

    def observe(self, values_ms: Sequence[int]) -> None:
        """Count every value."""
        counts, bounds = self._counts, self._bounds_ms
        for value, times in Counts(values_ms).items():
            counts[bisect_left(bounds, value)] += times
        self._sum_ms += sum(values_ms)

    def collect(self) -> Iterable[Metric]:
        """The cumulative buckets, as Prometheus wants them."""
        total = 0
        buckets: list[tuple[str, float]] = []
        names = [*(str(bound) for bound in LATENESS_BUCKETS_SECONDS), "+Inf"]
        for name, count in zip(names, self._counts, strict=True):
            total += count
            buckets.append((name, total))
        family = HistogramMetricFamily(self._name, self._documentation)
        family.add_metric([], buckets, self._sum_ms / 1000)
        yield family


class Metrics:
    """One process's metrics in a registry of their own."""

    def __init__(self) -> None:
        """All counters at zero."""
        self.registry = CollectorRegistry()
        r = self.registry
        self._outcomes = {
            name: Counter(
                f"streamsched_jobs_{name}_total", f"Jobs or commands: {name}.", registry=r
            )
            for name in OUTCOMES
        }
        self._rejected = Counter(
            "streamsched_jobs_rejected_total",
            "Ingress records refused, by reason code.",
            ["reason"],
            registry=r,
        )
        self.lateness = MillisecondHistogram(
            "streamsched_lateness_seconds",
            "How late jobs left through the scheduler's own doing.",
        )
        self.throttled = MillisecondHistogram(
            "streamsched_throttled_seconds",
            "How long jobs waited past due for their tenant's rate, pause or topic.",
        )
        r.register(self.lateness)
        r.register(self.throttled)
        self._admitted = Counter(
            "streamsched_jobs_admitted_total",
            "Records handed on from ingress topics of single tenants.",
            registry=r,
        )
        self.tenant_topics_failures = Counter(
            "streamsched_tenant_topics_failures_total",
            "Times that ingress topics of single tenants were read again after a failure.",
            registry=r,
        )
        self.transaction_seconds = Histogram(
            "streamsched_transaction_seconds",
            "From the begin of a transaction to its commit.",
            buckets=LATENESS_BUCKETS_SECONDS,
            registry=r,
        )
        self.cycle_seconds = Histogram(
            "streamsched_cycle_seconds",
            "Computing one cycle, without its transaction.",
            buckets=LATENESS_BUCKETS_SECONDS,
            registry=r,
        )
        self.transactions_aborted = Counter(
            "streamsched_transactions_aborted_total", "Cycles that were run again.", registry=r
        )
        self.producers_lost = Counter(
            "streamsched_producers_lost_total",
            "Transactional producers replaced after a fatal error.",
            registry=r,
        )
        self.settings_invalid = Gauge(
            "streamsched_settings_records_invalid",
            "Settings records seen that could not be used.",
            registry=r,
        )
        self.pending = Gauge("streamsched_jobs_pending", "Jobs held.", ["partition"], registry=r)
        self.ready = Gauge(
            "streamsched_jobs_ready",
            "Jobs past due that their tenant's rate, pause or topic holds back.",
            ["partition"],
            registry=r,
        )
        self.replay_records_left = Gauge(
            "streamsched_replay_records_left",
            "Changelog records still to read before the partition works.",
            ["partition"],
            registry=r,
        )
        self.recovery_records = Gauge(
            "streamsched_recovery_records",
            "Changelog records that the partition's last recovery read.",
            ["partition"],
            registry=r,
        )
        self.recovery_seconds = Gauge(
            "streamsched_recovery_seconds",
            "From the fence of the partition's last recovery until it was ready.",
            ["partition"],
            registry=r,
        )
        self.standby_lag_records = Gauge(
            "streamsched_standby_lag_records",
            "Changelog offsets that the standby of a partition has not applied yet.",
            ["partition"],
            registry=r,
        )
        self.standby_failures = Counter(
            "streamsched_standby_failures_total",
            "Times that a standby failed and began again.",
            registry=r,
        )
        self.ingress_buffered_bytes = Gauge(
            "streamsched_ingress_buffered_bytes",
            "Ingress records that were fetched and wait for a cycle.",
            ["partition"],
            registry=r,
        )
        self.ingress_unstable_records = Gauge(
            "streamsched_ingress_unstable_records",
            "Ingress offsets that cannot be read before an open transaction has ended.",
            ["partition"],
            registry=r,
        )
        self.block_cache_bytes = Gauge(
            "streamsched_block_cache_bytes",
            "Memory of the block cache that all stores of the process share.",
            registry=r,
        )
        self.partitions_ready = Gauge(
            "streamsched_partitions_ready", "Partitions recovered and ticking.", registry=r
        )

    def count(self, cycle: Cycle) -> None:
        """Take in a committed cycle."""
        for name, number in cycle.counts.items():
            kind, _, reason = name.partition(":")
            if reason:
                self._rejected.labels(reason).inc(number)
            elif kind in self._outcomes:
                self._outcomes[kind].inc(number)
        if cycle.lateness_ms:
            self.lateness.observe(cycle.lateness_ms)
            self.throttled.observe(cycle.throttled_ms)

    def count_tenant_topics(self, admitted: int, reasons: Iterable[str]) -> None:
        """Take in what was handed on from tenants' own topics, and why others were not."""
        self._admitted.inc(admitted)
        for reason in reasons:
            self._rejected.labels(reason).inc()

    def forget(self, partition: int) -> None:
        """Drop what is labelled with a partition that was given up."""
        for gauge in (
            self.pending,
            self.ready,
            self.replay_records_left,
            self.recovery_records,
            self.recovery_seconds,
            self.ingress_buffered_bytes,
            self.ingress_unstable_records,
        ):
            _forget(gauge, partition)

    def forget_standby(self, partition: int) -> None:
        """Drop what is labelled with a partition that is not followed any more."""
        _forget(self.standby_lag_records, partition)


def _forget(gauge: Gauge, partition: int) -> None:
    if (str(partition),) in set(_labels(gauge)):
        gauge.remove(str(partition))


def _labels(gauge: Gauge) -> Iterator[tuple[str, ...]]:
    for metric in gauge.collect():
        for sample in metric.samples:
            yield tuple(sample.labels.values())
