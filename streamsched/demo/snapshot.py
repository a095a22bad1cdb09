"""How each tenant stands at a moment, from the topics alone."""

from collections.abc import Sequence
from dataclasses import dataclass

from streamsched.demo.ledger import RECENT_MS, Ledger
from streamsched.demo.spans import quantile


@dataclass(frozen=True, slots=True)
class TenantRow:
    """One line of the table."""

    tenant: str
    rate: str
    per_second: float
    """Dispatches in the last seconds."""
    pending: int
    throttled: int
    """Pending jobs that are due already."""
    lateness_ms_p50: int | None
    lateness_ms_p99: int | None
    note: str


def take_rows(ledger: Ledger, notes: dict[str, str], now_ms: int) -> list[TenantRow]:
    """A row for each tenant named in `notes`; forgets what is not recent any more."""
    return [_row(ledger, tenant, note, now_ms) for tenant, note in notes.items()]


def _row(ledger: Ledger, tenant: str, note: str, now_ms: int) -> TenantRow:
    recent = ledger.recent[tenant]
    while recent and recent[0][0] <= now_ms - RECENT_MS:
        recent.popleft()
    late_ms = sorted(lateness_ms for _, lateness_ms in recent)
    due_ms = ledger.open[tenant].values()
    settings = ledger.settings_of(tenant)[-1]
    return TenantRow(
        tenant,
        "paused" if settings.paused else rate_text(settings.rate),
        len(recent) * 1_000 / RECENT_MS,
        len(due_ms),
        sum(at_ms <= now_ms for at_ms in due_ms),
        quantile(late_ms, 0.5) if late_ms else None,
        quantile(late_ms, 0.99) if late_ms else None,
        note,
    )


def total_row(rows: Sequence[TenantRow]) -> TenantRow:
    """All tenants together."""
    return TenantRow(
        "all",
        "",
        sum(row.per_second for row in rows),
        sum(row.pending for row in rows),
        sum(row.throttled for row in rows),
        None,
        None,
        "",
    )


def rate_text(rate: tuple[int, int] | None) -> str:
    """A rate as people write it."""
    if rate is None:
        return "unlimited"
    count, period_ms = rate
    if period_ms % 1_000:
        return f"{count}/{period_ms}ms"
    return f"{count}/s" if period_ms == 1_000 else f"{count}/{period_ms // 1_000}s"
