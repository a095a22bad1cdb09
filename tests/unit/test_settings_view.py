"""The settings log as seen by a process: newest valid word on every tenant."""

from streamsched.core.names import TopicNames
from streamsched.core.settings_view import SettingsView


def view() -> SettingsView:
    """A view that has read nothing."""
    return SettingsView(TopicNames())


def test_newest_valid_record_counts() -> None:
    """A later record replaces an earlier one whole."""
    seen = view()
    assert seen.feed(0, b"a", b'{"burst":2,"paused":true}') == ""
    assert seen.feed(5, b"a", b'{"burst":3}') == ""
    entry = seen.get("a")
    assert entry is not None
    assert entry.valid is not None
    assert (entry.valid.burst, entry.valid.paused, entry.valid_offset) == (3, None, 5)
    assert seen.position == 6


def test_invalid_record_keeps_the_valid_one() -> None:
    """A fault is shown beside the settings that stay in force."""
    seen = view()
    seen.feed(0, b"a", b'{"burst":2}')
    assert "burst" in seen.feed(1, b"a", b'{"burst":0}')
    entry = seen.get("a")
    assert entry is not None
    assert entry.valid is not None
    assert (entry.valid.burst, entry.valid_offset, entry.fault_offset) == (2, 0, 1)
    assert seen.invalid_records == 1
    seen.feed(2, b"a", b"{}")
    entry = seen.get("a")
    assert entry is not None
    assert entry.fault == ""


def test_only_invalid_record() -> None:
    """A tenant whose only record is invalid has an entry without valid settings."""
    seen = view()
    seen.feed(7, b"a", b"nonsense")
    entry = seen.get("a")
    assert entry is not None
    assert entry.valid is None
    assert entry.fault


def test_invalid_record_after_a_tombstone_says_what_was_removed() -> None:
    """The settings of before the tombstone must not come back."""
    seen = view()
    seen.feed(0, b"a", b"{}")
    seen.feed(1, b"a", None)
    seen.feed(2, b"a", b"nonsense")
    entry = seen.get("a")
    assert entry is not None
    assert (entry.valid, entry.valid_offset, entry.fault_offset) == (None, 1, 2)


def test_tombstone_forgets() -> None:
    """A tombstone removes the entry, and is a change."""
    seen = view()
    seen.feed(0, b"a", b"{}")
    version = seen.version
    seen.feed(1, b"a", None)
    assert seen.get("a") is None
    assert seen.tenants() == []
    assert seen.changed_since(version) == ["a"]


def test_bad_key_changes_nothing() -> None:
    """A record without a legal key is counted and moves the position, no more."""
    seen = view()
    version = seen.version
    assert seen.feed(0, None, b"{}")
    assert seen.feed(1, b"a.b", b"{}")
    assert (seen.version, seen.position, seen.invalid_records) == (version, 2, 2)


def test_changes_since_a_version() -> None:
    """Each tenant that changed is named once, oldest change first."""
    seen = view()
    for offset, key in enumerate([b"a", b"b", b"*", b"a"]):
        seen.feed(offset, key, b"{}")
    assert seen.changed_since(0) == ["b", "*", "a"]
    before = seen.version
    assert seen.changed_since(before) == []
    seen.feed(9, b"b", b'{"burst":0}')
    assert seen.changed_since(before) == ["b"]
