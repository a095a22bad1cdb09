"""Reading a changelog to its end, whatever it looks like by then."""

from collections.abc import Callable, Iterable, Iterator

import pytest

from streamsched.core import state
from streamsched.core.store import DUE, JOBS, META, Store
from streamsched.engine.changelog import ChangelogError, Stretch
from streamsched.engine.replaying import (
    PROGRESS_SECONDS,
    SILENCE_SECONDS_MAX,
    ReplayResult,
    replay_changelog,
)
from streamsched.store.memory import MemoryStore
from tests.property.model import dump

TOPIC_ID = "changelog"
STALE = "it is 99 s old, so it may have missed tombstones"


class Source:
    """A log that is played: what each read answers, `None` where nothing is heard."""

    def __init__(self, end: int, answers: Iterable[Stretch | None] = (), low: int = 0) -> None:
        """It reaches from `low` to `end`."""
        self._bounds = (low, end)
        self._answers: Iterator[Stretch | None] = iter(answers)
        self.read_from: int | None = None
        self.is_open = True

    def bounds(self) -> tuple[int, int]:
        """As given."""
        return self._bounds

    def seek(self, offset: int) -> None:
        """Remember it."""
        self.read_from = offset

    def read(self) -> Stretch | None:
        """The next answer."""
        return next(self._answers)

    def close(self) -> None:
        """Done."""
        self.is_open = False


class Clock:
    """Goes on by a step with each look."""

    def __init__(self, step: float = 0.0) -> None:
        """At nothing."""
        self._now = 0.0
        self._step = step

    def __call__(self) -> float:
        """The time."""
        self._now += self._step
        return self._now


def row(number: int) -> tuple[bytes, bytes]:
    """A job's record."""
    return b"acme\x00%d" % number, state.encode_job(
        1_000 + number, number, 0, 0, number, 0, None, [], b""
    )


def rows(*numbers: int) -> list[tuple[bytes, bytes | None]]:
    """Several jobs' records."""
    return [row(number) for number in numbers]


def replay(
    source: Source,
    store: Store,
    *,
    stale: str = "",
    is_wanted: Callable[[], bool] = lambda: True,
    told: list[int] | None = None,
    step: float = 0.0,
) -> ReplayResult:
    """Replay a log into a store, and see the log closed."""
    progress: list[int] = [] if told is None else told
    try:
        return replay_changelog(
            lambda _partition: source,
            0,
            store,
            TOPIC_ID,
            stale=stale,
            is_wanted=is_wanted,
            on_progress=progress.append,
            monotonic=Clock(step),
        )
    finally:
        assert not source.is_open


def offset_of(store: Store) -> int | None:
    """How far a store has come; `None` for one that counts as empty."""
    value = store.get(META, state.CHANGELOG_KEY)
    return None if value is None else state.decode_changelog_offset(value)[0]


def with_state(next_offset: int, *numbers: int) -> MemoryStore:
    """A store that has read a log with these jobs."""
    store = MemoryStore()
    replay(Source(next_offset, [Stretch(rows(*numbers), next_offset)]), store)
    return store


LOGS: dict[str, tuple[int, list[Stretch | None], set[int]]] = {
    "empty": (0, [], set()),
    "ends in commit markers": (9, [Stretch(rows(1, 2), 2), None, Stretch([], 9)], {1, 2}),
    "ends in a record": (2, [Stretch(rows(1), 1), Stretch(rows(2), 2)], {1, 2}),
    "compacted to nothing": (5_000, [Stretch([], 5_000)], set()),
    "compacted with gaps": (
        90,
        [Stretch(rows(1), 40), Stretch(rows(7), 89), Stretch([], 90)],
        {1, 7},
    ),
    "read past the end": (3, [Stretch(rows(1, 2, 3, 4), 6)], {1, 2, 3, 4}),
}


@pytest.mark.parametrize("name", LOGS)
def test_every_kind_of_log_is_read_to_its_end(name: str) -> None:
    """Jobs are there and indexed, and the store has come to the end, once and for all."""
    end, answers, expected = LOGS[name]
    store = MemoryStore()
    result = replay(Source(end, answers), store)
    assert not result.unfit
    assert result.records == len(expected)
    assert set(dump(store)[JOBS]) == {row(number)[0] for number in expected}
    assert len(dump(store)[DUE]) == len(expected)
    assert offset_of(store) == end
    # Nothing is read again: there is no answer left, and none is asked for.
    source = Source(end)
    assert replay(source, store).records == 0
    assert source.read_from is None


def test_only_the_tail_is_read_where_the_offset_is_known() -> None:
    """A store with state goes on from its offset, and keeps what it has."""
    store = with_state(10, 1, 2)
    source = Source(13, [Stretch([*rows(3), (row(1)[0], None)], 13)])
    assert replay(source, store).records == 2
    assert source.read_from == 10
    assert set(dump(store)[JOBS]) == {row(2)[0], row(3)[0]}


def test_a_log_that_begins_later_is_read_from_there() -> None:
    """An offset below the first that the log has is not asked for."""
    source = Source(60, [Stretch(rows(1), 60)], low=50)
    assert replay(source, MemoryStore()).records == 1
    assert source.read_from == 50


def test_state_ahead_of_the_log_is_of_no_use() -> None:
    """It is refused untouched; a log that ends exactly there is fine."""
    store = with_state(10, 1)
    result = replay(Source(9), store)
    assert "ahead of the changelog" in result.unfit
    assert offset_of(store) == 10
    assert not replay(Source(10), store).unfit


@pytest.mark.parametrize(("end", "unfit"), [(10, ""), (11, ""), (12, STALE)])
def test_old_state_is_of_use_only_where_nothing_is_new(end: int, unfit: str) -> None:
    """With a tail it may lack tombstones; the last transaction's marker alone is no tail."""
    source = Source(end, [Stretch([], end)])
    assert replay(source, with_state(10, 1), stale=STALE).unfit == unfit


def test_an_empty_store_is_never_stale() -> None:
    """There is nothing in it that could be old."""
    assert not replay(Source(9, [Stretch(rows(1), 9)]), MemoryStore(), stale=STALE).unfit


@pytest.mark.parametrize("looks", [1, 2, 3])
def test_a_replay_that_is_not_wanted_any_more_leaves_an_empty_store(looks: int) -> None:
    """Given up while it reads, before it finishes or while it indexes, nothing of it counts."""
    store = MemoryStore()
    answers = iter([True] * looks)
    source = Source(4, [Stretch(rows(1), 2), Stretch(rows(2), 4)])
    replay(source, store, is_wanted=lambda: next(answers, False))
    assert offset_of(store) is None


def test_silence_is_told_in_the_end() -> None:
    """A broker that does not answer is waited for, but not for ever."""
    source = Source(5, [None] * 100)
    with pytest.raises(ChangelogError, match="no answer from the broker"):
        replay(source, MemoryStore(), step=SILENCE_SECONDS_MAX / 10)


def test_what_is_left_is_told_as_it_shrinks() -> None:
    """From all of it down to nothing, about once a second."""
    told: list[int] = []
    answers = [Stretch(rows(number), number * 10) for number in range(1, 6)]
    replay(Source(50, answers), MemoryStore(), told=told, step=PROGRESS_SECONDS)
    assert told[0] == 50
    assert told[-1] == 0
    assert told == sorted(told, reverse=True)
    assert len(set(told)) >= 4
