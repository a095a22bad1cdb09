"""Egress topics that look good and refuse records: whether it is the topic, or a job.

A topic whose records were refused is on trial. Its jobs leave in small numbers at first, one a
cycle, twice as many after each commit, until it is trusted again. A job that is refused alone is a
suspect and is set aside, and its tenant goes on with the next one. If that is committed, the topic
was good right after it refused the suspect, which is then tried again. What was refused so twice
is condemned, and leaves as undeliverable. Once is not enough: the topic may have refused everything
and been mended between the two, and then the suspect leaves like any other job. If so many jobs in
a row are refused that it is the topic's doing, all of them wait, and are tried again after a while
from the first on.

All of this is in memory only and outlives an aborted cycle, since that is when it is learned. To
forget a suspect is always safe: it is then tried like any other job.
"""

from dataclasses import dataclass

from streamsched.core.cycle import Probe
from streamsched.core.limits import (
    CONDEMNED_REST_MS,
    JOBS_PER_TENANT_PER_CYCLE_MAX,
    PROOF_MS_MAX,
    PROOFS_NEEDED,
    REFUSED_REST_MS,
    SUSPECTS_IN_A_ROW_MAX,
)


@dataclass(slots=True)
class Suspect:
    """A job that was refused when it was the only one for its topic in a cycle."""

    tenant: str
    job_id: bytes
    line: tuple[int, int]
    """Its due_ms and sequence."""
    refused_at_ms: int
    words: str
    """The broker's."""
    again_at_ms: int
    """When it is tried again, unless another job of the topic is committed before; or given up."""
    proofs: int = 0
    """How often another job of the topic was committed right after this one was refused."""

    @property
    def is_condemned(self) -> bool:
        """Whether it is undeliverable."""
        return self.proofs >= PROOFS_NEEDED

    def is_aside(self, now_ms: int) -> bool:
        """Whether it is passed over at the moment."""
        return self.is_condemned or now_ms < self.again_at_ms


class Trial:
    """One topic on trial, as one partition sees it."""

    __slots__ = (
        "refused_in_a_row",
        "suspects",
        "tenant_rests",
        "topic",
        "topic_rests_until_ms",
        "width",
        "words",
    )

    def __init__(self, topic: str, words: str) -> None:
        """Records for `topic` were refused; `words` are the broker's."""
        self.topic = topic
        self.words = words
        self.width = 1
        """How many jobs of a tenant may leave to the topic in one cycle."""
        self.suspects: dict[int, Suspect] = {}
        """By sequence."""
        self.refused_in_a_row: list[int] = []
        """Sequences of the jobs that were refused alone since one was committed."""
        self.topic_rests_until_ms = 0
        self.tenant_rests: dict[str, int] = {}
        """Until when tenants wait of whom a job was condemned: each costs all others aborts."""

    # --- for dispatch ----------------------------------------------------------------------

    def rests_until_ms(self, tenant: str, now_ms: int) -> int | None:
        """When jobs of the tenant may leave again; `None` where they may now."""
        until_ms = max(self.topic_rests_until_ms, self.tenant_rests.get(tenant, 0))
        return until_ms if until_ms > now_ms else None

    def is_solo(self, tenant: str) -> bool:
        """Whether nothing else may go to the topic in the cycle in which a job of the tenant does.

        Only so is it known whose fault a refusal is.
        """
        return self.width == 1 or any(s.tenant == tenant for s in self.suspects.values())

    def admit(self, tenant: str, admitted: dict[str, bool]) -> bool:
        """Whether the tenant may be served in a cycle; if so, it is noted in `admitted`.

        `admitted` tells, by topic, whether the tenant that has been admitted goes solo.
        """
        solo = self.is_solo(tenant)
        if self.topic in admitted and (solo or admitted[self.topic]):
            return False
        admitted[self.topic] = solo
        return True

    def width_for(self, tenant: str) -> int:
        """How many jobs of the tenant may leave in one cycle."""
        return 1 if self.is_solo(tenant) else self.width

    def aside(self, tenant: str, now_ms: int) -> dict[int, Suspect]:
        """The tenant's suspects that are passed over at the moment."""
        return {
            sequence: suspect
            for sequence, suspect in self.suspects.items()
            if suspect.tenant == tenant and suspect.is_aside(now_ms)
        }

    # --- what becomes of cycles ------------------------------------------------------------

    def prove(self, now_ms: int) -> None:
        """Jobs of the topic were committed in a cycle at `now_ms`."""
        self.width = min(2 * self.width, JOBS_PER_TENANT_PER_CYCLE_MAX)
        for suspect in self.suspects.values():
            if not suspect.is_condemned:
                suspect.again_at_ms = 0
        last = self.suspects.get(self.refused_in_a_row[-1]) if self.refused_in_a_row else None
        self.refused_in_a_row.clear()
        # What was refused long ago may have met a topic that was mended since then.
        if last is not None and now_ms - last.refused_at_ms <= PROOF_MS_MAX:
            last.proofs += 1
            if last.is_condemned:
                self.tenant_rests[last.tenant] = now_ms + CONDEMNED_REST_MS

    @property
    def is_over(self) -> bool:
        """Whether the topic is trusted again."""
        return self.width >= JOBS_PER_TENANT_PER_CYCLE_MAX and not self.suspects

    def put_off(self, until_ms: int) -> None:
        """Those that are condemned cannot be given up before `until_ms`."""
        for suspect in self.suspects.values():
            if suspect.is_condemned:
                suspect.again_at_ms = until_ms

    def begin_again(self) -> None:
        """The topic is at fault, whatever jobs were refused: they will be tried like all others."""
        self.width = 1
        self.refused_in_a_row.clear()
        self.suspects = {n: s for n, s in self.suspects.items() if s.is_condemned}

    def refuse(self, probe: Probe | None, words: str, now_ms: int) -> None:
        """Records of a cycle at `now_ms` were refused for what they are; `probe` is what went."""
        self.width = 1
        self.words = words
        if probe is None or probe.jobs != 1:
            return
        sequence = probe.line[1]
        again_at_ms = now_ms + REFUSED_REST_MS
        suspect = self.suspects.setdefault(
            sequence, Suspect(probe.tenant, probe.job_id, probe.line, now_ms, words, again_at_ms)
        )
        suspect.refused_at_ms, suspect.words = now_ms, words
        # The next to be tried is none of these: it is to say whether the topic is good now.
        for other in self.suspects.values():
            other.again_at_ms = again_at_ms
        if sequence in self.refused_in_a_row:
            self.refused_in_a_row.remove(sequence)
        self.refused_in_a_row.append(sequence)
        if len(self.refused_in_a_row) >= SUSPECTS_IN_A_ROW_MAX:
            self.begin_again()
            self.topic_rests_until_ms = again_at_ms
