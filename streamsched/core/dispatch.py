"""The third part of a cycle: due jobs leave, each tenant at its own rate, tenants in turn.

A tenant has a turn at the moment when its next job may leave. Turns are served oldest first, in
bounds per tenant and per cycle; a tenant that may not dispatch has no turn and costs nothing.
Due jobs that may not leave yet go to `ready`, from where the tenant's next turn takes them.
"""

from heapq import heappop

from streamsched.core import limiter
from streamsched.core.cycle import Probe
from streamsched.core.destinations import Destination, Problem
from streamsched.core.draft import Draft, PartitionState
from streamsched.core.judging import judge
from streamsched.core.limits import (
    CYCLE_BYTES_MAX,
    EGRESS_PARTITIONS_PER_CYCLE_MAX,
    JOBS_PER_CYCLE_MAX,
    JOBS_PER_TENANT_PER_CYCLE_MAX,
    PASSED_OVER_MAX,
)
from streamsched.core.line import Line
from streamsched.core.sending import Sending, Sent
from streamsched.core.sweep import Sweep
from streamsched.core.tenants import SETTINGS_INVALID, Tenant
from streamsched.core.trials import Suspect, Trial


class Dispatch:
    """Turns of one partition's tenants."""

    def __init__(self, base: PartitionState, sweep: Sweep) -> None:
        """Work on `base`; `sweep` says up to where a tenant's due rows were read."""
        self._base = base
        self._sweep = sweep
        self._sending = Sending(base)
        self._line = Line(base, sweep)

    def unpark(self, now_ms: int) -> None:
        """Give tenants whose topic has changed another chance."""
        base = self._base
        if base.directory.version == base.directory_version:
            return
        base.directory_version = base.directory.version
        parked, base.parked = base.parked, {}
        for names in parked.values():
            for name in sorted(names):
                tenant = base.tenants[name]
                if isinstance(tenant.blocked, Problem):
                    self.free(tenant, now_ms)

    def prepare(self, tenant: Tenant) -> None:
        """Have the tenant's topic looked at, and made, before its first job is due."""
        directory, effective = self._base.directory, tenant.effective
        is_settled = self._base.view.complete and tenant.blocked != SETTINGS_INVALID
        if is_settled and directory.lookup(effective.egress_topic) is None:
            directory.want(effective.egress_topic, effective.egress_partitions)

    def free(self, tenant: Tenant, now_ms: int) -> None:
        """Lift what blocked the tenant; its waiting jobs get a turn."""
        tenant.blocked = ""
        tenant.blocked_detail = ""
        tenant.free_since_ms = now_ms
        tenant.waiting = False
        if tenant.ready:
            self._base.give_turn(tenant, now_ms)

    def try_again(self, name: str, now_ms: int) -> bool:
        """Free a tenant that waits because jobs were refused; returns whether it did."""
        tenant = self._base.tenants.get(name)
        if tenant is None or tenant.blocked != Problem.REFUSES:
            return False
        self.free(tenant, now_ms)
        return True

    def run(self, draft: Draft, *, is_open: bool) -> None:
        """Serve turns; whatever of the candidates has not left goes to `ready`."""
        base = self._base
        if is_open and base.trials:
            judge(draft)
        for tenant in draft.eased:
            if tenant.blocked == Problem.TOO_SMALL:
                self.free(tenant, draft.now_ms)
        for name, candidates in draft.candidates.items():
            tenant = base.tenants.get(name) or base.tenant(name)
            candidates.sort()
            if not tenant.blocked:
                base.give_turn(tenant, draft.now_ms)
        if is_open:
            self._serve(draft)
        for name, candidates in draft.candidates.items():
            if candidates:
                self._line.keep(draft, base.tenants[name], candidates)

    def _serve(self, draft: Draft) -> None:
        """Give each tenant whose turn has come its share of what one cycle can send.

        Those that want little come first, and what they leave of their share goes to the others:
        nobody waits because some have much. A tenant is served once in a cycle, since the store
        does not show yet what the cycle took.
        """
        picked, later = self._pick(draft.now_ms)
        picked.sort(key=lambda turn: self._wanted(draft, turn[0]))
        jobs_left = JOBS_PER_CYCLE_MAX
        partitions: set[tuple[str, int]] = set()
        for number, (tenant, at_ms, destination) in enumerate(picked):
            share = -(-jobs_left // (len(picked) - number))
            if share == 0 or draft.bytes_out >= CYCLE_BYTES_MAX:
                later.append((tenant, at_ms))
                continue
            jobs, next_ms = self._serve_tenant(draft, tenant, destination, partitions, share)
            jobs_left -= jobs
            if next_ms is not None:
                later.append((tenant, next_ms))
        for tenant, at_ms in later:
            self._base.give_turn(tenant, at_ms)

    def _pick(
        self, now_ms: int
    ) -> tuple[list[tuple[Tenant, int, Destination]], list[tuple[Tenant, int]]]:
        """Tenants whose turn has come, oldest first, as far as the egress partitions go.

        Returns them with the moment of their turn, and those that were passed over.
        """
        base = self._base
        turns = base.turns
        picked: list[tuple[Tenant, int, Destination]] = []
        passed_over: list[tuple[Tenant, int]] = []
        standing_back: list[tuple[Tenant, int]] = []
        on_trial: dict[str, bool] = {}
        places: set[tuple[str, int]] = set()
        while turns and turns[0][0] <= now_ms and len(picked) < JOBS_PER_CYCLE_MAX:
            if len(passed_over) >= PASSED_OVER_MAX:
                break
            at_ms, _, name = heappop(turns)
            tenant = base.tenants[name]
            if tenant.turn_at_ms != at_ms:
                continue
            tenant.turn_at_ms = None
            if tenant.blocked:
                # Only one who rests because jobs were refused has a turn all the same.
                self.try_again(name, now_ms)
                continue
            destination = self._destination(tenant, now_ms)
            if destination is None:
                continue
            place = (destination.topic, self._sticky(tenant, destination))
            if place not in places and len(places) >= EGRESS_PARTITIONS_PER_CYCLE_MAX:
                passed_over.append((tenant, at_ms))
                continue
            trial = base.trials.get(destination.topic)
            if trial is not None and not trial.admit(name, on_trial):
                standing_back.append((tenant, at_ms))
                continue
            places.add(place)
            picked.append((tenant, at_ms, destination))
        return picked, passed_over + standing_back

    @staticmethod
    def _wanted(draft: Draft, tenant: Tenant) -> int:
        """How many due jobs the tenant has, as far as they were read."""
        return tenant.ready + len(draft.candidates.get(tenant.name, ()))

    def _destination(self, tenant: Tenant, now_ms: int) -> Destination | None:
        """The tenant's egress topic if it can be written to; else the tenant is parked."""
        base = self._base
        topic = tenant.effective.egress_topic
        destination = base.directory.lookup(topic)
        if destination is None:
            self.prepare(tenant)
            self._park(tenant, topic, Problem.UNKNOWN, "not looked at yet")
            return None
        if destination.problem is not None:
            self._park(tenant, topic, destination.problem, destination.detail)
            return None
        trial = base.trials.get(topic)
        if trial is not None:
            until_ms = trial.rests_until_ms(tenant.name, now_ms)
            if until_ms is not None:
                self._rest(tenant, topic, f"records for it are refused ({trial.words})", until_ms)
                return None
        return destination

    def _park(self, tenant: Tenant, topic: str, problem: Problem, detail: str) -> None:
        tenant.blocked = problem
        tenant.blocked_detail = f"egress topic {topic}: {detail or problem.value}"
        self._base.parked.setdefault(topic, set()).add(tenant.name)

    def _rest(self, tenant: Tenant, topic: str, detail: str, until_ms: int) -> None:
        """As `_park`, with a turn at `until_ms`."""
        self._park(tenant, topic, Problem.REFUSES, detail)
        self._base.give_turn(tenant, until_ms)

    def _sticky(self, tenant: Tenant, destination: Destination) -> int:
        """Where this cycle's jobs without a key go: another partition each cycle."""
        if destination.partitions == 1:
            return 0
        # Mixed, so that a tenant served every third cycle still meets all of three partitions.
        mixed = (self._base.cycle_count + len(tenant.raw)) * 0x9E3779B1 & 0xFFFFFFFF
        return (mixed >> 8) % destination.partitions

    # --- one tenant ------------------------------------------------------------------------

    def _serve_tenant(
        self,
        draft: Draft,
        tenant: Tenant,
        destination: Destination,
        partitions: set[tuple[str, int]],
        jobs_left: int,
    ) -> tuple[int, int | None]:
        """Let the tenant's next jobs leave, at most `jobs_left`.

        Returns how many did, and when the tenant's next turn is, `None` if it needs none.
        """
        now_ms = draft.now_ms
        most = min(jobs_left, JOBS_PER_TENANT_PER_CYCLE_MAX)
        pace = tenant.effective.pace
        at_ticks = 0
        if not tenant.seen:
            draft.see(tenant)
        if pace is not None and tenant.at_ticks is not None:
            allowed = limiter.allowance(*pace, tenant.at_ticks, now_ms, waiting=tenant.waiting)
            at_ticks = allowed.at_ticks
            if allowed.jobs == 0:
                tenant.waiting = True
                return 0, limiter.next_ms(pace[0], at_ticks)
            most = min(most, allowed.jobs)
        trial = self._base.trials.get(destination.topic)
        aside: dict[int, Suspect] = {}
        if trial is not None:
            most = min(most, trial.width_for(tenant.name))
            aside = trial.aside(tenant.name, now_ms)
        chosen, left, from_ready, is_late = self._line.choose(draft, tenant, most, aside)
        sticky = self._sticky(tenant, destination)
        sent = self._sending.run(draft, tenant, destination, sticky, partitions, chosen, at_ticks)
        if sent.too_large:
            self._park(tenant, destination.topic, Problem.TOO_SMALL, sent.too_large)
        _note_probe(draft, tenant, trial, sent)
        left = [*chosen[sent.taken :], *left]
        self._line.settle(draft, tenant, chosen[: sent.taken], left, from_ready, aside)
        if sent.jobs and pace is not None:
            tenant.at_ticks = limiter.spend(pace[0], at_ticks, sent.jobs)
            draft.write_limiter(tenant)
        passed = self._line.passed(draft, tenant, aside) if aside else []
        others = tenant.ready - len(passed)
        tenant.waiting = others > 0
        if tenant.blocked or not (others or is_late):
            if passed:
                self._rest_with(tenant, destination.topic, passed, now_ms)
            return sent.jobs, None
        if pace is None or tenant.at_ticks is None:
            return sent.jobs, now_ms
        return sent.jobs, max(now_ms, limiter.next_ms(pace[0], tenant.at_ticks))

    def _rest_with(self, tenant: Tenant, topic: str, passed: list[Suspect], now_ms: int) -> None:
        """Let the tenant rest: all that it has ready are jobs that were refused."""
        if tenant.blocked:
            return
        first = min(passed, key=lambda suspect: suspect.line)
        self._rest(
            tenant,
            topic,
            f"refuses job {first.job_id.decode()!r} ({first.words}), and there is no other to "
            "find out by whether it is the job or the topic; cancel it, or mend the topic",
            max(now_ms + 1, min(suspect.again_at_ms for suspect in passed)),
        )


def _note_probe(draft: Draft, tenant: Tenant, trial: Trial | None, sent: Sent) -> None:
    """Say in the cycle what it sends to a topic, if that is on trial."""
    if trial is None or sent.last is None:
        return
    due_ms, sequence, job_id = sent.last
    before = draft.cycle.probes.get(trial.topic)
    jobs = sent.jobs + (0 if before is None else before.jobs)
    draft.cycle.probes[trial.topic] = Probe(tenant.name, job_id, (due_ms, sequence), jobs)
