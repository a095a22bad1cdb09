"""The checker's books: every record of the topics, entered as it is read."""

import json
import zlib
from collections import defaultdict, deque
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from streamsched.core import headers as h
from streamsched.core.names import DEFAULT_TENANT, TopicNames
from streamsched.demo.reading_records import (
    UnreadableError,
    content_crc,
    read_ingress,
    read_rate,
    read_settings,
    text_of,
)
from streamsched.demo.seen import (
    BadSeen,
    CancelSeen,
    DeadLetterSeen,
    DispatchSeen,
    EventSeen,
    JobSeen,
    RejectedSeen,
    SeenRecord,
    SettingsSeen,
)

ENDING_EVENTS: Final = frozenset({"cancelled", "replaced", "expired", "undeliverable"})
RECENT_MS: Final = 5_000
"""What the live table calls recent."""

_ERROR_HEADERS: Final = "streamsched-error-"
_BUILT_IN: Final = {"rate": "unlimited", "burst": 1, "paused": False}


class SettingsRecord(NamedTuple):
    """A valid settings record; `fields` is `None` for a tombstone."""

    at_ms: int
    tenant: str
    fields: Mapping[str, Any] | None


class Ledger:
    """Takes records of all topics in any order; one thread feeds it."""

    def __init__(self, names: TopicNames) -> None:
        """Begin with empty books."""
        self.names = names
        self.jobs: dict[str, JobSeen] = {}
        self.cancels: list[CancelSeen] = []
        self.bad: dict[str, BadSeen] = {}
        self.dispatches: list[DispatchSeen] = []
        self.events: list[EventSeen] = []
        self.rejected: list[RejectedSeen] = []
        self.dead_letters: list[DeadLetterSeen] = []
        self.settings: list[SettingsRecord] = []
        self.unreadable: list[str] = []
        self.reading_since_ms: dict[str, int] = {}
        """From when on each topic was being read; what came before was received late by us."""
        self.open: dict[str, dict[str, int]] = defaultdict(dict)
        """Due times of the jobs that have not ended yet, by tenant and source."""
        self.recent: dict[str, deque[tuple[int, int]]] = defaultdict(deque)
        """Receipt and lateness of each tenant's last dispatches, in ms."""
        self._ended: set[str] = set()

    def feed(self, record: SeenRecord) -> None:
        """Enter one record; what cannot be read is entered as unreadable."""
        topic, names = record.topic, self.names
        try:
            if topic == names.jobs:
                self._ingress(record)
            elif topic == names.tenant_settings:
                self._settings(record)
            elif topic == names.events:
                self._event(record)
            elif topic == names.rejected:
                self._rejected(record)
            elif topic == names.dead_letters:
                self._dead_letter(record)
            else:
                self._dispatch(record)
        except (UnreadableError, ValueError, KeyError, TypeError) as error:
            where = f"{topic} {record.partition}-{record.offset}"
            self.unreadable.append(f"{where}: {error!r}")

    def settings_of(self, tenant: str) -> list[SettingsSeen]:
        """What applied to a tenant, from when on, in order; the first entry is what is built in."""
        own: Mapping[str, Any] = {}
        default: Mapping[str, Any] = {}
        found = [self._effective(0, tenant, own, default)]
        for record in self.settings:
            if record.tenant == tenant:
                own = record.fields or {}
            elif record.tenant == DEFAULT_TENANT:
                default = record.fields or {}
            else:
                continue
            now = self._effective(record.at_ms, tenant, own, default)
            if now[1:] != found[-1][1:]:
                found.append(now)
        return found

    def egress_topics(self) -> set[str]:
        """Topics outside the usual names that settings records send jobs to."""
        return {
            str(record.fields["egress_topic"])
            for record in self.settings
            if record.fields and "egress_topic" in record.fields
        }

    def _effective(
        self, at_ms: int, tenant: str, own: Mapping[str, Any], default: Mapping[str, Any]
    ) -> SettingsSeen:
        usual = {**_BUILT_IN, "egress_topic": self.names.egress(tenant)}
        fields = {**usual, **default, **own}
        return SettingsSeen(
            at_ms,
            read_rate(fields["rate"]),
            fields["burst"],
            fields["paused"],
            fields["egress_topic"],
        )

    def _ingress(self, record: SeenRecord) -> None:
        found = read_ingress(record)
        source = f"{record.partition}-{record.offset}"
        if isinstance(found, BadSeen):
            self.bad[source] = found
        elif isinstance(found, CancelSeen):
            self.cancels.append(found)
        elif found is not None:
            self.jobs[source] = found
            if source not in self._ended:
                self.open[found.tenant][source] = found.due_ms

    def _settings(self, record: SeenRecord) -> None:
        tenant = (record.key or b"").decode()
        if record.value is None:
            self.settings.append(SettingsRecord(record.timestamp_ms, tenant, None))
            return
        try:
            fields = read_settings(record.value)
        except UnreadableError:
            return  # An invalid record leaves the last valid settings in force.
        self.settings.append(SettingsRecord(record.timestamp_ms, tenant, fields))

    def _event(self, record: SeenRecord) -> None:
        body = json.loads(record.value or b"")
        event = EventSeen(
            body["event"],
            body["tenant"] or "",
            body["id"] or "",
            body["at"],
            body.get("source", ""),
            body.get("reason", ""),
        )
        self.events.append(event)
        if event.kind in ENDING_EVENTS:
            self._end(event.tenant, event.source)

    def _rejected(self, record: SeenRecord) -> None:
        headers = record.headers
        partition = text_of(headers, h.ERROR_PARTITION)
        offset = text_of(headers, h.ERROR_OFFSET)
        own = [header for header in headers if not header[0].startswith(_ERROR_HEADERS)]
        self.rejected.append(
            RejectedSeen(
                f"{partition}-{offset}",
                text_of(headers, h.ERROR_CODE) or "",
                text_of(headers, h.ERROR_MESSAGE) or "",
                content_crc(record.key, record.value, own),
            )
        )

    def _dead_letter(self, record: SeenRecord) -> None:
        headers = record.headers
        self.dead_letters.append(
            DeadLetterSeen(
                text_of(headers, h.SOURCE) or "",
                text_of(headers, h.TENANT) or "",
                text_of(headers, h.ID) or "",
                text_of(headers, h.ERROR_CODE) or "",
            )
        )

    def _dispatch(self, record: SeenRecord) -> None:
        found = dict(record.headers)
        dispatch = DispatchSeen(
            (found[h.SOURCE] or b"").decode(),
            (found[h.TENANT] or b"").decode(),
            (found[h.ID] or b"").decode(),
            (record.topic, record.partition),
            record.offset,
            int(found[h.DUE_AT] or b""),
            int(found[h.DISPATCHED_AT] or b""),
            record.received_ms,
            zlib.crc32(record.value or b""),
        )
        self.dispatches.append(dispatch)
        self._end(dispatch.tenant, dispatch.source)
        job = self.jobs.get(dispatch.source)
        since_ms = dispatch.due_ms if job is None else job.ready_ms
        lateness_ms = max(0, record.received_ms - since_ms)
        self.recent[dispatch.tenant].append((record.received_ms, lateness_ms))

    def _end(self, tenant: str, source: str) -> None:
        self._ended.add(source)
        self.open[tenant].pop(source, None)
