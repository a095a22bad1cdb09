"""The settings log as one process sees it: the newest word on every tenant.

The view is fed record by record, in offset order, from a reader outside the core. It is shared
by all partitions of a process; each of them takes from it what concerns its own tenants.
"""

from dataclasses import dataclass

from streamsched.core.names import TopicNames
from streamsched.core.tenant_settings import (
    InvalidSettings,
    OwnSettings,
    decode_settings,
    decode_settings_key,
)


@dataclass(frozen=True, slots=True)
class Entry:
    """What the log says of one tenant (or of `*`).

    `valid` is the newest record that can be used, `None` where none was seen or a tombstone took it
    away, whose offset `valid_offset` is then; `fault` says why the newest record of all cannot be
    used, empty where it can.
    """

    valid: OwnSettings | None
    valid_offset: int
    fault: str
    fault_offset: int


@dataclass
class SettingsView:
    """Newest settings per tenant, with a history of which tenants changed."""

    names: TopicNames
    complete: bool = False
    """Whether the log was read to the end that it had when reading began, or since this process
    last stood still."""
    position: int = 0
    """The offset after the last record seen."""
    invalid_records: int = 0
    topic_id: str = ""
    """Which topic the offsets are of; empty where it is not known."""

    def __post_init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._removed: dict[str, int] = {}
        self._changed: dict[str, int] = {}
        self._version = 1

    @property
    def version(self) -> int:
        """Grows with each record that changed something; never 0."""
        return self._version

    def feed(self, offset: int, key: bytes | None, value: bytes | None) -> str:
        """Take in one record; returns why it cannot be used, empty when it can.

        An invalid record leaves the last valid one in force: it never means 0 or unlimited.
        """
        self.position = offset + 1
        try:
            tenant = decode_settings_key(key)
        except InvalidSettings as error:
            self.invalid_records += 1
            return str(error)
        fault = ""
        before = self._entries.get(tenant)
        if value is None:
            self._entries.pop(tenant, None)
            self._removed[tenant] = offset
        else:
            try:
                own = decode_settings(value, self.names)
                self._entries[tenant] = Entry(own, offset, "", -1)
            except InvalidSettings as error:
                fault = str(error)
                self.invalid_records += 1
                self._entries[tenant] = Entry(
                    before.valid if before else None,
                    before.valid_offset if before else self._removed.get(tenant, -1),
                    fault,
                    offset,
                )
        # Moved to the end, so that the newest changes stand last.
        self._version += 1
        self._changed.pop(tenant, None)
        self._changed[tenant] = self._version
        return fault

    def get(self, tenant: str) -> Entry | None:
        """The entry of `tenant`, or `None` where the log has nothing on it (or a tombstone)."""
        return self._entries.get(tenant)

    def knows(self, tenant: str) -> bool:
        """Whether the log has had a word on `tenant`, be it a tombstone."""
        return tenant in self._changed

    def tenants(self) -> list[str]:
        """All tenants that the log has something on, `*` included."""
        return list(self._entries)

    def changed_since(self, version: int) -> list[str]:
        """Tenants whose entry changed after `version`, each once, oldest change first."""
        changed: list[str] = []
        for tenant, at in reversed(self._changed.items()):
            if at <= version:
                break
            changed.append(tenant)
        changed.reverse()
        return changed
