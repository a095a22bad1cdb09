"""The part of a cycle that takes new settings into force, on pending jobs too.

Each partition keeps the last valid settings of its own tenants and of `*` in its state, so that
they outlive the compaction of the log they came from.
"""

from streamsched.core import limiter, state
from streamsched.core.dispatch import Dispatch
from streamsched.core.draft import Draft, PartitionState
from streamsched.core.names import DEFAULT_TENANT
from streamsched.core.placement import partition_for
from streamsched.core.rate import Rate
from streamsched.core.settings_view import Entry
from streamsched.core.store import META
from streamsched.core.tenant_settings import NOTHING, OwnSettings, encode_settings, merge
from streamsched.core.tenants import PAUSED, SETTINGS_INVALID, Tenant

OF_FORMER_TOPIC = -1
"""The offset of settings that came from a settings topic which is no more."""


class SettingsChanges:
    """Brings a partition's tenants up to what the settings log says."""

    def __init__(self, base: PartitionState, dispatch: Dispatch) -> None:
        """Work on `base`; `dispatch` gives turns to tenants that become free."""
        self._base = base
        self._dispatch = dispatch

    def run(self, draft: Draft) -> None:
        """Take in what changed since the last cycle; the first time, everything."""
        base = self._base
        view = base.view
        if not view.complete or view.version == base.view_version:
            return
        if base.view_version:
            changed = view.changed_since(base.view_version)
        else:
            # The log may have lost by compaction what the state still knows of, tombstones
            # included, so the first look compares both ways.
            changed = [*view.tenants(), DEFAULT_TENANT]
            changed += [t.name for t in base.tenants.values() if t.own is not NOTHING]
            self._keep_in_mind_whose(draft)
        base.view_version = view.version
        affected: dict[str, Tenant] = {}
        for name in dict.fromkeys(changed):
            if name == DEFAULT_TENANT:
                self._take_default(draft, view.get(name))
                affected.update(base.tenants)
            elif partition_for(name.encode(), base.partitions) == base.partition:
                tenant = base.tenant(name)
                self._take_own(draft, tenant, view.get(name))
                affected[name] = tenant
        for tenant in affected.values():
            self._put_in_force(draft, tenant)

    def _keep_in_mind_whose(self, draft: Draft) -> None:
        """Mark settings that came from another settings topic than the one there is now.

        They stay in force until the new topic has a word on their tenant: a topic that was made
        anew is empty at first, and that must not set everybody free.
        """
        base = self._base
        topic_id = base.view.topic_id
        if not topic_id or base.settings_topic_id == topic_id:
            return
        if base.settings_topic_id:
            kept = {t.raw: t.own for t in base.tenants.values() if t.own is not NOTHING}
            if base.default is not NOTHING:
                kept[DEFAULT_TENANT.encode()] = base.default
            for raw, own in kept.items():
                value = state.encode_own_settings(OF_FORMER_TOPIC, encode_settings(own))
                draft.write_state(META, state.SETTINGS_PREFIX + raw, value)
            base.default_offset = OF_FORMER_TOPIC
            for tenant in base.tenants.values():
                tenant.own_offset = OF_FORMER_TOPIC
        base.settings_topic_id = topic_id
        value = state.encode_settings_topic(topic_id)
        draft.write_state(META, state.SETTINGS_TOPIC_KEY, value)

    def _take_default(self, draft: Draft, entry: Entry | None) -> None:
        base = self._base
        key = state.SETTINGS_PREFIX + DEFAULT_TENANT.encode()
        if entry is None:
            if base.default is NOTHING or self._stays(DEFAULT_TENANT, base.default_offset):
                base.default_invalid = False
                return
            base.default, base.default_offset = _take(draft, key, None)
            base.default_invalid = False
            return
        if entry.valid_offset > base.default_offset:
            base.default, base.default_offset = _take(draft, key, entry)
        base.default_invalid = base.default is NOTHING

    def _take_own(self, draft: Draft, tenant: Tenant, entry: Entry | None) -> None:
        key = state.SETTINGS_PREFIX + tenant.raw
        tenant.own_invalid = False
        if entry is None:
            if tenant.own is NOTHING or self._stays(tenant.name, tenant.own_offset):
                return
            tenant.own, tenant.own_offset = _take(draft, key, None)
            return
        if entry.valid_offset > tenant.own_offset:
            tenant.own, tenant.own_offset = _take(draft, key, entry)
        tenant.own_invalid = tenant.own is NOTHING

    def _stays(self, name: str, offset: int) -> bool:
        """Whether settings stay in force though the log has none of the tenant."""
        return offset == OF_FORMER_TOPIC and not self._base.view.knows(name)

    def _put_in_force(self, draft: Draft, tenant: Tenant) -> None:
        """Recompute what applies to the tenant; the limiter keeps its level."""
        base = self._base
        now_ms = draft.now_ms
        tenant.effective = merge(tenant.own, base.default, tenant.name, base.names)
        if tenant.pending:
            self._dispatch.prepare(tenant)
        pace = tenant.effective.pace
        has_new_pace = pace != tenant.pace
        if has_new_pace:
            self._change_pace(draft, tenant, pace)
        blocked = ""
        if tenant.own_invalid or (base.default_invalid and not tenant.own.is_complete):
            blocked = SETTINGS_INVALID
        elif tenant.effective.paused:
            blocked = PAUSED
        if not blocked:
            # A topic's problem is found again at the tenant's turn, perhaps of another topic. What
            # changes nothing leaves the tenant its turn, and its right to catch up.
            if tenant.blocked or has_new_pace:
                self._dispatch.free(tenant, now_ms if tenant.blocked else tenant.free_since_ms)
            return
        tenant.blocked = blocked
        tenant.blocked_detail = self._fault(tenant) if blocked == SETTINGS_INVALID else ""

    def _fault(self, tenant: Tenant) -> str:
        view = self._base.view
        entry = view.get(tenant.name if tenant.own_invalid else DEFAULT_TENANT)
        return "" if entry is None else entry.fault

    @staticmethod
    def _change_pace(draft: Draft, tenant: Tenant, pace: tuple[Rate, int] | None) -> None:
        old = tenant.pace
        tenant.pace = pace
        tenant.waiting = False
        if not tenant.seen:
            return
        tenant.at_ticks = (
            None if pace is None else limiter.change(old, tenant.at_ticks or 0, pace, draft.now_ms)
        )
        draft.write_limiter(tenant)


def _take(draft: Draft, key: bytes, entry: Entry | None) -> tuple[OwnSettings, int]:
    """The settings that an entry leaves in force, with their offset, and written to the state.

    None after a tombstone, whether or not an invalid record came behind it.
    """
    if entry is None or entry.valid is None:
        draft.write_state(META, key, None)
        return NOTHING, -1
    value = state.encode_own_settings(entry.valid_offset, encode_settings(entry.valid))
    draft.write_state(META, key, value)
    return entry.valid, entry.valid_offset
