"""What the demo shows: a live table on a terminal, plain tables now and then elsewhere."""

import re
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from streamsched.demo.snapshot import TenantRow, total_row
from streamsched.demo.verdict import Verdict

PLAIN_EVERY_SECONDS: Final = 5.0
PLAIN_COLUMNS: Final = 100

_FIGURES: Final = {
    "RATE": 9,
    "SEEN/s": 6,
    "PENDING": 7,
    "THROTTLED": 9,
    "P50": 7,
    "P99": 7,
}
_EPOCH_MS: Final = re.compile(r"\b[0-9]{13}\b")


class Screen:
    """Shows tables until it is closed; a context manager."""

    def __init__(self, *, on_stderr: bool = False) -> None:
        """Nothing is shown yet. `on_stderr` keeps standard output free for data."""
        self.console = Console(stderr=on_stderr)
        if not self.console.is_terminal:
            self.console = Console(stderr=on_stderr, width=PLAIN_COLUMNS)
        self._live: Live | None = None
        self._next_plain = 0.0

    def __enter__(self) -> Self:
        """Take the terminal, where it is one."""
        if self.console.is_terminal:
            self._live = Live(
                console=self.console, auto_refresh=False, transient=True, redirect_stderr=False
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the terminal back."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, text: str, style: str = "") -> None:
        """A line that stays."""
        self.console.print(Text(text, style), soft_wrap=True)

    def show(self, rows: Sequence[TenantRow], status: str, *, alarm: bool) -> None:
        """Bring the table up to date; elsewhere than on a terminal only every few seconds."""
        table = tenant_table(rows)
        title = Text(status, "bold red" if alarm else "bold green")
        if self._live is not None:
            self._live.update(Group(title, table), refresh=True)
        elif time.monotonic() >= self._next_plain:
            self._next_plain = time.monotonic() + PLAIN_EVERY_SECONDS
            self.print_table(rows, status)

    def print_table(self, rows: Sequence[TenantRow], status: str) -> None:
        """Print the table for good."""
        self.console.print()
        self.console.print(Text(status, "bold"))
        self._print(tenant_table(rows))

    def print_verdicts(self, verdicts: Sequence[Verdict], start_ms: int) -> None:
        """Print a line for each promise, and examples of what broke it, with times of traffic."""
        self.console.print()
        self._print(verdict_table(verdicts, start_ms))

    def _print(self, what: RenderableType) -> None:
        if self.console.is_terminal:
            self.console.print(what)
            return
        with self.console.capture() as captured:
            self.console.print(what)
        # Rich fills the last column up to the widest line.
        for line in captured.get().splitlines():
            print(line.rstrip(), file=self.console.file, flush=True)


def tenant_table(rows: Sequence[TenantRow]) -> Table:
    """The tenants, one a line, within 80 columns and 24 lines with its title."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    table.add_column("TENANT", no_wrap=True, min_width=7)
    # Columns keep their widths while the figures change, or the eye would lose its place.
    for name, width in _FIGURES.items():
        table.add_column(name, justify="right", no_wrap=True, min_width=width)
    table.add_column("", no_wrap=True, style="dim", max_width=14)
    for row in [*rows, total_row(rows)]:
        style = "bold" if row.tenant == "all" else ""
        throttled = Text(_count(row.throttled), "yellow" if row.throttled > 1 else "")
        table.add_row(
            row.tenant,
            Text(row.rate, "magenta" if row.rate == "paused" else ""),
            _speed(row.per_second),
            _count(row.pending),
            throttled,
            _duration(row.lateness_ms_p50, throttled=row.throttled),
            _duration(row.lateness_ms_p99, throttled=row.throttled),
            row.note,
            style=style,
        )
    return table


def verdict_table(verdicts: Sequence[Verdict], start_ms: int) -> Table:
    """The promises, what was looked at, and whether they were kept.

    Moments are told in seconds from `start_ms` on.
    """

    def since_start(match: re.Match[str]) -> str:
        return f"{(int(match[0]) - start_ms) / 1_000:+.3f} s"

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    table.add_column("PROMISE", no_wrap=True)
    table.add_column("CHECKED", overflow="fold")
    table.add_column("", no_wrap=True)
    for verdict in verdicts:
        word = Text("ok", "green") if verdict.kept else Text("BROKEN", "bold red")
        table.add_row(verdict.promise, Text(verdict.checked), word)
        for example in verdict.examples:
            table.add_row(
                "", Padding(Text(_EPOCH_MS.sub(since_start, example), "red"), (0, 0, 0, 2)), ""
            )
    return table


def _count(number: int) -> str:
    return f"{number:,}" if number else "-"


def _speed(per_second: float) -> str:
    if not per_second:
        return "-"
    return f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:.1f}"


def _duration(milliseconds: int | None, *, throttled: int) -> Text:
    if milliseconds is None:
        return Text("-")
    if milliseconds < 1_000:
        return Text(f"{milliseconds} ms")
    # Late by the tenant's own rate is as it should be; late without a reason is not.
    return Text(f"{milliseconds / 1_000:.1f} s", "yellow" if throttled else "red")
