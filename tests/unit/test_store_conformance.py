"""What every store does, run on each implementation, and both against a plain dictionary."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamsched.core.store import DUE, FAMILIES, JOBS, META, READY, Cursor, Row, Store, Write
from streamsched.store.errors import StoreClosed
from streamsched.store.memory import MemoryStore
from streamsched.store.rocks import RocksStore

TOP = b"\xff" * 300


@pytest.fixture(params=["memory", "rocks"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store of each kind."""
    opened: Store = MemoryStore() if request.param == "memory" else RocksStore(tmp_path / "store")
    yield opened
    opened.close()


def rest(cursor: Cursor) -> list[tuple[bytes, bytes]]:
    """The rows from where the cursor stands to its upper bound."""
    rows = []
    while cursor.valid():
        rows.append((cursor.key(), cursor.value()))
        cursor.next()
    return rows


def scan(
    store: Store, family: str, lower: bytes = b"", upper: bytes = TOP
) -> list[tuple[bytes, bytes]]:
    """The rows of `family` between the bounds."""
    with store.cursor(family, lower, upper) as cursor:
        return rest(cursor)


def fill(store: Store, *keys: bytes, family: str = JOBS) -> None:
    """Put `keys`, each with itself as value."""
    store.write([(family, key, key) for key in keys])


def test_get_finds_what_was_put(store: Store) -> None:
    """A row that was put is found, another is not."""
    store.write([(JOBS, b"a", b"1")])
    assert store.get(JOBS, b"a") == b"1"
    assert store.get(JOBS, b"b") is None


def test_empty_batch_is_harmless(store: Store) -> None:
    """A batch without changes changes nothing."""
    store.write([])
    assert scan(store, JOBS) == []


def test_empty_value_is_a_value(store: Store) -> None:
    """An empty value is told apart from no row, by every read."""
    store.write([(JOBS, b"a", b"")])
    assert store.get(JOBS, b"a") == b""
    assert store.get_many(JOBS, [b"a", b"b"]) == [b"", None]
    assert scan(store, JOBS) == [(b"a", b"")]


def test_rows_come_in_byte_order(store: Store) -> None:
    """Keys with bytes 0x00 and 0xff, prefixes and an empty key come in unsigned byte order."""
    keys = [b"", b"\x00", b"\x00\x00", b"\x00\xff", b"a", b"a\x00", b"\x7f", b"\x80", b"\xff"]
    keys.append(b"\xff" * 200)
    fill(store, *reversed(keys))
    assert scan(store, JOBS) == [(key, key) for key in keys]
    assert store.get_many(JOBS, keys) == keys


def test_families_are_apart(store: Store) -> None:
    """The same key holds another value in each family, and deletes reach one family only."""
    store.write([(family, b"k", family.encode()) for family in FAMILIES])
    store.write([(DUE, b"k", None)])
    assert {f: store.get(f, b"k") for f in FAMILIES} == {
        JOBS: b"jobs",
        DUE: None,
        READY: b"ready",
        META: b"meta",
    }
    assert scan(store, READY) == [(b"k", b"ready")]


def test_changes_apply_in_order(store: Store) -> None:
    """Within a batch the last change of a key wins, be it a put or a delete."""
    store.write([(JOBS, b"gone", b"0"), (JOBS, b"back", b"0")])
    store.write(
        [
            (JOBS, b"gone", b"1"),
            (JOBS, b"gone", None),
            (JOBS, b"back", None),
            (JOBS, b"back", b"1"),
            (JOBS, b"twice", b"1"),
            (JOBS, b"twice", b"2"),
            (JOBS, b"never", None),
        ]
    )
    assert scan(store, JOBS) == [(b"back", b"1"), (b"twice", b"2")]


def test_a_batch_with_a_fault_changes_nothing(store: Store) -> None:
    """A batch that names an unknown family is refused whole."""
    with pytest.raises(KeyError, match="jbos"):
        store.write([(JOBS, b"a", b"1"), ("jbos", b"b", b"2")])
    assert scan(store, JOBS) == []


def test_unknown_families_are_refused(store: Store) -> None:
    """Reads of an unknown family fail instead of finding nothing."""
    with pytest.raises(KeyError, match="jbos"):
        store.get("jbos", b"a")
    with pytest.raises(KeyError, match="jbos"):
        store.get_many("jbos", [b"a"])
    with pytest.raises(KeyError, match="jbos"):
        store.cursor("jbos", b"", TOP)


def test_get_many_keeps_the_order_asked_for(store: Store) -> None:
    """Values come in the order of the keys, with `None` for missing and repeats repeated."""
    fill(store, b"a", b"b", b"c")
    asked = [b"c", b"x", b"a", b"c", b"", b"b"]
    expected = [b"c", None, b"a", b"c", None, b"b"]
    assert store.get_many(JOBS, asked) == expected
    assert store.get_many(JOBS, tuple(asked)) == expected
    assert store.get_many(JOBS, [b"b"]) == [b"b"]
    assert store.get_many(JOBS, []) == []


def test_bounds_of_a_cursor(store: Store) -> None:
    """The lower bound is inside, the upper outside, and crossed bounds hold nothing."""
    fill(store, b"a", b"b", b"c", b"d")
    assert [k for k, _ in scan(store, JOBS, b"b", b"d")] == [b"b", b"c"]
    assert [k for k, _ in scan(store, JOBS, b"aa", b"cc")] == [b"b", b"c"]
    assert scan(store, JOBS, b"c", b"c") == []
    assert scan(store, JOBS, b"d", b"a") == []
    assert scan(store, JOBS, b"", b"") == []
    assert scan(store, JOBS, b"e", TOP) == []


def test_seek_stays_within_the_bounds(store: Store) -> None:
    """Seek goes both ways, up to the lower bound and never past the upper one."""
    fill(store, b"a", b"b", b"c", b"d", b"e")
    with store.cursor(JOBS, b"b", b"e") as cursor:
        cursor.seek(b"bb")
        assert cursor.key() == b"c"
        cursor.seek(b"c")
        assert cursor.key() == b"c"
        cursor.seek(b"")
        assert cursor.key() == b"b"
        cursor.seek(b"e")
        assert not cursor.valid()
        cursor.seek(b"d")
        assert cursor.key() == b"d"


def test_next_past_the_end_is_harmless(store: Store) -> None:
    """A cursor moved past its last row stays invalid, and a seek revives it."""
    fill(store, b"a", b"b")
    with store.cursor(JOBS, b"", b"b") as cursor:
        for _ in range(3):
            cursor.next()
        assert not cursor.valid()
        cursor.seek(b"a")
        assert cursor.key() == b"a"
    with store.cursor(DUE, b"", TOP) as cursor:
        cursor.next()
        assert not cursor.valid()


def test_stretches_hold_every_row_once(store: Store) -> None:
    """All rows of a family in order, so many at a time, those just loaded included."""
    assert list(store.stretches(JOBS, 2)) == []
    fill(store, b"", b"b", b"a", b"\xff" * 255)
    fill(store, b"c", family=DUE)
    expected = [[(b"", b""), (b"a", b"a")], [(b"b", b"b"), (b"\xff" * 255, b"\xff" * 255)]]
    assert list(store.stretches(JOBS, 2)) == expected
    store.begin_load()
    store.load(JOBS, [(b"b", b"1"), (b"a", b"1"), (b"c", b"1"), (b"a", None)])
    assert list(store.stretches(JOBS, 9)) == [[(b"b", b"1"), (b"c", b"1")]]


def test_cursor_sees_the_store_as_at_its_making(store: Store) -> None:
    """Puts, overwrites and deletes after its making are not seen, by a seek neither."""
    fill(store, b"a", b"b", b"c")
    with store.cursor(JOBS, b"", TOP) as cursor:
        assert cursor.key() == b"a"
        store.write([(JOBS, b"b", None), (JOBS, b"c", b"new"), (JOBS, b"bb", b"1")])
        with store.cursor(JOBS, b"", TOP) as later:
            assert rest(cursor) == [(b"a", b"a"), (b"b", b"b"), (b"c", b"c")]
            cursor.seek(b"b")
            assert rest(cursor) == [(b"b", b"b"), (b"c", b"c")]
            assert rest(later) == [(b"a", b"a"), (b"bb", b"1"), (b"c", b"new")]


def test_loading_begins_with_nothing(store: Store) -> None:
    """No row of any family outlives it, the highest keys included, and writes go on after it."""
    for family in FAMILIES:
        fill(store, b"", b"\x00", b"a", b"\xff" * 64, b"\xff" * 200, family=family)
    store.begin_load()
    assert [scan(store, family) for family in FAMILIES] == [[], [], [], []]
    store.end_load()
    assert [scan(store, family) for family in FAMILIES] == [[], [], [], []]
    assert store.get_many(JOBS, [b"", b"a", b"\xff" * 200]) == [None, None, None]
    fill(store, b"a", b"\xff" * 65)
    assert [k for k, _ in scan(store, JOBS)] == [b"a", b"\xff" * 65]


def test_loaded_rows_are_there(store: Store) -> None:
    """The last change of a key counts, a cursor sees it before the end, and then every read."""
    store.begin_load()
    store.load(JOBS, [(b"b", b"1"), (b"a", b"1"), (b"c", b"1")])
    store.load(JOBS, [(b"a", b"2"), (b"b", b"2"), (b"b", None), (b"d", None)])
    store.load(DUE, [(b"a", b"3")])
    with store.cursor(JOBS, b"", TOP) as cursor:
        assert rest(cursor) == [(b"a", b"2"), (b"c", b"1")]
    abandoned = store.cursor(JOBS, b"", TOP)
    store.load(JOBS, [(b"e", b"1")])
    store.end_load()
    assert not abandoned.valid()
    assert scan(store, JOBS) == [(b"a", b"2"), (b"c", b"1"), (b"e", b"1")]
    assert scan(store, DUE) == [(b"a", b"3")]
    store.write([(JOBS, b"a", None)])
    assert store.get_many(JOBS, [b"a", b"c"]) == [None, b"1"]


def test_closed_store_says_so(store: Store) -> None:
    """Each use of a closed store is an error of its own kind; a second close is none."""
    fill(store, b"a")
    store.close()
    store.close()
    uses: list[Callable[[], object]] = [
        lambda: store.get(JOBS, b"a"),
        lambda: store.get_many(JOBS, [b"a"]),
        lambda: store.cursor(JOBS, b"", TOP),
        lambda: store.write([(JOBS, b"a", b"1")]),
        store.end_load,
        lambda: store.load(JOBS, [(b"a", b"1")]),
    ]
    for use in uses:
        with pytest.raises(StoreClosed, match="is closed"):
            use()


def test_closed_cursor_says_so(store: Store) -> None:
    """A cursor is invalid after its own end and after its store's, and refuses to be used."""
    fill(store, b"a")
    with store.cursor(JOBS, b"", TOP) as own:
        assert own.valid()
    abandoned = store.cursor(JOBS, b"", TOP)
    store.close()
    for cursor in (own, abandoned):
        assert not cursor.valid()
        cursor.next()
        for use in (cursor.key, cursor.value):
            with pytest.raises(StoreClosed, match="cursor"):
                use()
        with pytest.raises(StoreClosed, match="cursor"):
            cursor.seek(b"a")


short_keys = st.binary(max_size=3) | st.sampled_from([b"a", b"b", b"a\x00", b"\xff" * 70])
values = st.none() | st.binary(max_size=4)
writes = st.tuples(st.sampled_from(FAMILIES), short_keys, values)
batches = st.lists(writes, max_size=12)
steps = st.lists(st.one_of(st.just("load"), st.just("reopen"), batches), max_size=10)

LOADED: list[Row] = [(b"b", b"1"), (b"a", b"1"), (b"a", None), (b"", b"1"), (b"b", b"2")]

Model = dict[str, dict[bytes, bytes]]


def apply(model: Model, batch: list[Write]) -> None:
    """What a batch means, on plain dictionaries."""
    for family, key, value in batch:
        if value is None:
            model[family].pop(key, None)
        else:
            model[family][key] = value


@given(steps=steps, bounds=st.tuples(short_keys, short_keys), asked=st.lists(short_keys))
@settings(max_examples=60, deadline=None)
def test_both_stores_agree_with_a_dictionary(
    steps: list[str | list[Write]], bounds: tuple[bytes, bytes], asked: list[bytes]
) -> None:
    """After every step of any history, all reads agree, and old cursors show the old rows."""
    model: Model = {family: {} for family in FAMILIES}
    with tempfile.TemporaryDirectory() as folder:
        stores: list[Store] = [MemoryStore(), RocksStore(Path(folder) / "store")]
        try:
            for step in steps:
                if step == "reopen":
                    stores[1].close()
                    stores[1] = RocksStore(Path(folder) / "store")
                else:
                    change_under_cursors(stores, model, step, bounds)
                for store in stores:
                    assert_agrees(store, model, bounds, asked)
        finally:
            stores[1].close()


def change_under_cursors(
    stores: list[Store], model: Model, step: str | list[Write], bounds: tuple[bytes, bytes]
) -> None:
    """Load from nothing, or write, with cursors open that must not see a write."""
    cursors = [store.cursor(JOBS, *bounds) for store in stores]
    before = between(model[JOBS], *bounds)
    if isinstance(step, str):
        for rows in model.values():
            rows.clear()
        apply(model, [(JOBS, key, value) for key, value in LOADED])
        for store, cursor in zip(stores, cursors, strict=True):
            store.begin_load()
            store.load(JOBS, LOADED)
            store.end_load()
            assert not cursor.valid()
        return
    apply(model, step)
    for store, cursor in zip(stores, cursors, strict=True):
        store.write(step)
        with cursor:
            assert rest(cursor) == before


def assert_agrees(
    store: Store, model: Model, bounds: tuple[bytes, bytes], asked: list[bytes]
) -> None:
    """Every kind of read answers as the model does."""
    for family, rows in model.items():
        assert scan(store, family, *bounds) == between(rows, *bounds)
        assert store.get_many(family, asked) == [rows.get(key) for key in asked]
        assert [store.get(family, key) for key in asked] == [rows.get(key) for key in asked]


def between(rows: dict[bytes, bytes], lower: bytes, upper: bytes) -> list[tuple[bytes, bytes]]:
    """The rows of a plain dictionary between the bounds, in order."""
    return sorted((key, value) for key, value in rows.items() if lower <= key < upper)
