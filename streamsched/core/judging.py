"""What becomes of jobs that were refused: those that are condemned leave as undeliverable."""

from streamsched.core import state
from streamsched.core.cycle import Cycle
from streamsched.core.draft import Draft, PartitionState
from streamsched.core.limits import REFUSED_REST_MS
from streamsched.core.store import JOBS
from streamsched.core.tenants import Tenant
from streamsched.core.trials import Suspect, Trial


def judge(draft: Draft) -> None:
    """Send the condemned to the dead letters, and forget suspects that are no more.

    A condemned job stays in mind until its row is gone: the cycle may yet be aborted.
    """
    base = draft.base
    for trial in base.trials.values():
        for sequence, suspect in list(trial.suspects.items()):
            tenant = base.tenants.get(suspect.tenant)
            if tenant is None or tenant.effective.egress_topic != trial.topic:
                # Its new topic may take it.
                del trial.suspects[sequence]
            elif not _settle(draft, trial, tenant, suspect):
                del trial.suspects[sequence]


def _settle(draft: Draft, trial: Trial, tenant: Tenant, suspect: Suspect) -> bool:
    """Carry out the verdict, if there is one; whether the job was still pending."""
    base = draft.base
    key = state.job_key(tenant.raw, suspect.job_id)
    row = draft.rows[key] if key in draft.rows else base.store.get(JOBS, key)
    if row is None:
        return False
    job = state.decode_job(row)
    if job.sequence != suspect.line[1]:
        return False
    if suspect.is_condemned and draft.now_ms >= base.letters_rest_until_ms:
        draft.unindex(tenant, job.due_ms, job.sequence, job.expires_ms)
        draft.delete_job(tenant, key)
        draft.find_undeliverable(tenant, suspect.job_id, job, trial.topic, suspect.words)
    return True


def note_refusal(
    base: PartitionState, cycle: Cycle, topic: str, words: str, *, of_record: bool
) -> bool:
    """See `Partition.note_refusal`."""
    if topic == base.names.dead_letters and cycle.counts["undeliverable"]:
        base.letters_rest_until_ms = cycle.now_ms + REFUSED_REST_MS
        for condemning in base.trials.values():
            condemning.put_off(base.letters_rest_until_ms)
        return True
    if topic not in cycle.egress_topics:
        return False
    trial = base.trials.get(topic)
    if trial is None:
        base.trials[topic] = Trial(topic, words)
        return False
    if not of_record:
        trial.begin_again()
        return False
    trial.refuse(cycle.probes.get(topic), words, cycle.now_ms)
    return True


def note_commit(base: PartitionState, cycle: Cycle) -> set[str]:
    """Jobs of the cycle's topics have left; returns tenants whose suspects may be tried again."""
    waiting: set[str] = set()
    for topic in cycle.egress_topics & base.trials.keys():
        trial = base.trials[topic]
        trial.prove(cycle.now_ms)
        waiting.update(suspect.tenant for suspect in trial.suspects.values())
        if trial.is_over:
            del base.trials[topic]
    return waiting
