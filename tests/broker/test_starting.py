"""State and topics that do not belong together: a scheduler says so and does not start.

What can be wrong without any state is tested with the commands, in test_cli_faults.py.
"""

import json
import shutil
from pathlib import Path

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.broker.cluster import await_condition
from tests.broker.installation import Installation, installed, recreate
from tests.broker.sending import tenants_of

PARTITIONS = 1


def refusal(it: Installation) -> str:
    """The one sentence with which a scheduler ends that does not start."""
    before = len(it.process.whole_log())
    it.process.start()
    status = it.process.wait_ended()
    text = it.process.whole_log()[before:]
    assert status == 1, text
    assert "Traceback" not in text
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    said = [line["event"] for line in lines if line["level"] in {"error", "critical"}]
    assert len(said) == 1, text
    print(said[0])
    return str(said[0])


@pytest.mark.timeout(240)
def test_state_that_does_not_fit_the_topics_is_refused(
    kafka: str, admin: AdminClient, tmp_path: Path
) -> None:
    """Lost records, a lost changelog, a recreated ingress: each named, and the remedy works."""
    with installed(kafka, tmp_path, partitions=PARTITIONS) as it:
        jobs, changelog = it.names.jobs, it.names.changelog
        it.sender.job("acme", "a")
        it.sender.flush()
        it.dispatched("acme", 1)
        await_group_offset(it, admin, 1)
        assert it.process.terminate() == 0

        # Deleted before they were read: the state goes on below the beginning of the topic.
        last = it.sender.job("acme", "lost")
        it.sender.job("acme", "kept")
        it.sender.flush()
        place = TopicPartition(jobs, 0, (last[0].offset() or 0) + 1)
        admin.delete_records([place])[place].result(10)
        said = refusal(it)
        assert f"{jobs}-0 begins at offset 2, but the state goes on at 1" in said
        assert "retention" in said

        recreate(it, admin, changelog)
        said = refusal(it)
        assert "was built from another changelog topic" in said
        assert "Remove the folder" in said

        shutil.rmtree(it.process.folder / "data")
        said = refusal(it)
        assert f"changelog {changelog} has no state of it" in said
        assert f"delete the consumer group {it.names.app_id!r}" in said

        [deleted] = admin.delete_consumer_groups([it.names.app_id]).values()
        deleted.result(10)
        start_anew(it, jobs=2)

        recreate(it, admin, jobs)
        said = refusal(it)
        assert f"topic {jobs} was deleted and made anew" in said
        assert f"delete the topic {changelog}" in said

        recreate(it, admin, changelog)
        shutil.rmtree(it.process.folder / "data" / it.names.app_id / "0")
        it.sender.job("acme", "again")
        it.sender.flush()
        start_anew(it, jobs=3)


@pytest.mark.timeout(240)
def test_starts_again_though_a_partition_never_had_a_record(
    kafka: str, admin: AdminClient, tmp_path: Path
) -> None:
    """An empty partition has no state, and that is no loss: not with its folder, nor without."""
    with installed(kafka, tmp_path, partitions=2) as it:
        [tenant] = tenants_of(0, 2, 1, "only")
        for number in range(3):
            it.sender.job(tenant, f"{number}")
            it.sender.flush()
            it.dispatched(tenant, number + 1)
            # The offsets of all partitions are committed together.
            await_group_offset(it, admin, number + 1)
            assert it.process.terminate() == 0
            if number:
                shutil.rmtree(it.process.folder / "data")
            it.process.start()
            it.process.wait_ready()


@pytest.mark.timeout(240)
def test_settings_topic_made_anew_is_told_and_followed_after_a_start(
    kafka: str, admin: AdminClient, tmp_path: Path
) -> None:
    """The scheduler ends with a sentence; started again, it keeps the known rates and reads on."""
    with installed(kafka, tmp_path, partitions=2) as it:
        for number in range(3):
            it.sender.settings("acme", rate=f"{number + 1}/h")
            it.sender.settings("other", rate="5/h")
        it.sender.flush()
        it.process.await_tenant("acme", rate="3/h")
        it.process.await_tenant("other", rate="5/h")
        recreate(it, admin, it.names.tenant_settings)
        assert it.process.wait_ended() == 1
        said = [line for line in it.process.whole_log().splitlines() if '"level": "error"' in line]
        assert len([line for line in said if f"topic {it.names.tenant_settings} " in line]) == 1
        assert "Traceback" not in it.process.whole_log()

        it.sender.settings("acme", rate="7/h")
        it.sender.flush()
        it.process.start()
        it.process.wait_ready()
        it.process.await_tenant("acme", rate="7/h")
        it.process.await_tenant("other", rate="5/h")


def start_anew(it: Installation, jobs: int) -> None:
    """Start as was advised, let jobs leave, and stop."""
    it.process.start()
    it.process.wait_ready()
    it.dispatched("acme", jobs)
    assert it.process.terminate() == 0


def await_group_offset(it: Installation, admin: AdminClient, offset: int) -> None:
    """Wait until the group's offset is committed, which is done lazily."""
    request = ConsumerGroupTopicPartitions(it.names.app_id, [TopicPartition(it.names.jobs, 0)])

    def committed() -> bool:
        [answer] = admin.list_consumer_group_offsets([request]).values()
        [found] = answer.result(10).topic_partitions
        return bool(found.offset == offset)

    await_condition("the group's offset is committed", committed, 30, it.process.log)
