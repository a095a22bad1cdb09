"""Spans of time in ms, and counting within them."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Span(NamedTuple):
    """From `start_ms` on, before `end_ms`."""

    start_ms: int
    end_ms: int

    @property
    def length_ms(self) -> int:
        """How long it is."""
        return self.end_ms - self.start_ms

    def meets(self, other: "Span") -> bool:
        """Whether the two have a moment in common."""
        return self.start_ms < other.end_ms and other.start_ms < self.end_ms

    def holds(self, at_ms: int) -> bool:
        """Whether the moment lies in it."""
        return self.start_ms <= at_ms < self.end_ms


def without(spans: Iterable[Span], holes: Iterable[Span]) -> list[Span]:
    """What is left of `spans` when every one of `holes` is taken out."""
    left = list(spans)
    for hole in holes:
        cut: list[Span] = []
        for span in left:
            if not span.meets(hole):
                cut.append(span)
                continue
            if span.start_ms < hole.start_ms:
                cut.append(Span(span.start_ms, hole.start_ms))
            if hole.end_ms < span.end_ms:
                cut.append(Span(hole.end_ms, span.end_ms))
        left = cut
    return left


def count_in(sorted_ms: Sequence[int], span: Span) -> int:
    """How many moments of a sorted sequence lie in the span."""
    return bisect_left(sorted_ms, span.end_ms) - bisect_left(sorted_ms, span.start_ms)


def fullest_window(sorted_ms: Sequence[int], width_ms: int) -> tuple[int, int]:
    """The most moments in any window [t, t+width), and the start of such a window.

    A fullest window can always be moved so that it begins with one of the moments, so one pass
    with two pointers looks at all that matter.
    """
    most, where_ms, first = 0, 0, 0
    for last, at_ms in enumerate(sorted_ms):
        while sorted_ms[first] <= at_ms - width_ms:
            first += 1
        if last - first + 1 > most:
            most, where_ms = last - first + 1, sorted_ms[first]
    return most, where_ms


def first_after(sorted_ms: Sequence[int], at_ms: int) -> int | None:
    """The first moment of a sorted sequence later than `at_ms`."""
    index = bisect_right(sorted_ms, at_ms)
    return sorted_ms[index] if index < len(sorted_ms) else None


def busy_spans(changes: list[tuple[int, int]], end_ms: int) -> list[Span]:
    """When the sum of `changes` (moment, +1 or -1) was above zero, up to `end_ms`."""
    # What comes and what goes in one millisecond: it came first.
    changes.sort(key=lambda change: (change[0], -change[1]))
    spans: list[Span] = []
    level = 0
    since_ms = 0
    for at_ms, change in changes:
        if at_ms >= end_ms:
            break
        if level == 0 and change > 0:
            since_ms = at_ms
        level += change
        if level == 0 and change < 0 and at_ms > since_ms:
            spans.append(Span(since_ms, at_ms))
    if level > 0:
        spans.append(Span(since_ms, end_ms))
    return spans


def quantile(sorted_values: Sequence[int], share: float) -> int:
    """The value that `share` of a sorted, non-empty sequence does not exceed."""
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * share))]
