"""What is wrong around the program: one sentence, exit status 1, no traceback."""

import socket
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from streamsched.core.names import TopicNames
from streamsched.kafka.broker_node import free_port
from tests.broker.cluster import create_topic
from tests.broker.program import Done, Run, environment_for, refusal, runner


@pytest.fixture
def names(app_id: str) -> TopicNames:
    """Topic names of this test alone."""
    return TopicNames(app_id)


@pytest.fixture
def run(kafka: str, app_id: str, tmp_path: Path) -> Run:
    """Runs the program to its end in a folder of its own."""
    return runner(environment_for(kafka, app_id), tmp_path)


@pytest.fixture
def topics(run: Run) -> None:
    """The topics of this test's application."""
    assert run("topics", "apply", "--partitions", "3").returncode == 0


@pytest.mark.parametrize(
    "words",
    [
        ["topics", "plan"],
        ["jobs", "submit", "--tenant", "t", "--delay", "1s", "--payload", "x"],
    ],
)
def test_broker_that_is_away_is_one_sentence(run: Run, words: list[str]) -> None:
    """The address and the remedy are named, on standard error, with exit status 1."""
    away = f"127.0.0.1:{free_port()}"
    sentence = refusal(run(*words, "--bootstrap-servers", away))
    assert sentence.startswith(f"Kafka at {away} did not answer within ")
    assert "streamsched broker" in sentence


@pytest.mark.parametrize(
    "words",
    [
        ["jobs", "submit", "--tenant", "t", "--delay", "1s", "--payload", "x"],
        ["jobs", "cancel", "t", "1"],
        ["tenants", "pause", "t"],
        ["egress", "tail", "t"],
    ],
)
def test_missing_topic_is_one_sentence(run: Run, words: list[str]) -> None:
    """The topic and the command that creates it are named."""
    sentence = refusal(run(*words))
    assert sentence.endswith("is missing: run `streamsched topics apply`")


def test_wrong_client_option_is_one_sentence(run: Run) -> None:
    """An option that librdkafka does not know is named."""
    assert '"foo"' in refusal(run("topics", "plan", STREAMSCHED_KAFKA__FOO="1"))


@pytest.mark.parametrize("words", [["broker"], ["dev"]])
def test_port_in_use_is_one_sentence(run: Run, words: list[str]) -> None:
    """The embedded Kafka does not start on a port that somebody has."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        sentence = refusal(run(*words, "--port", port))
    assert sentence.startswith(f"port {port} of 127.0.0.1 is in use")


def test_broker_with_a_folder_that_cannot_be_written(run: Run, tmp_path: Path) -> None:
    """A file where the folder should be is told in one sentence."""
    (tmp_path / "file").touch()
    sentence = refusal(run("broker", "--port", "0", "--data-dir", "file"))
    assert sentence.startswith(f"data folder {tmp_path}/file/embedded.kafka cannot be written")


def _not_started(done: Done, said: str) -> None:
    """A scheduler that did not start says why once, without a traceback."""
    assert done.returncode == 1, done.stderr
    assert done.stderr.count(said) == 1, done.stderr
    assert "Traceback" not in done.stderr


def test_scheduler_without_topics_does_not_start(run: Run, names: TopicNames) -> None:
    """Each missing topic is named."""
    _not_started(run("run"), f"topic {names.jobs} is missing: run `streamsched topics apply`")


def test_scheduler_without_a_broker_does_not_start(run: Run) -> None:
    """The address is named."""
    away = f"127.0.0.1:{free_port()}"
    _not_started(run("run", "--bootstrap-servers", away), f"Kafka at {away} did not answer")


def test_scheduler_on_unequal_partition_counts_does_not_start(
    run: Run, names: TopicNames, admin: AdminClient
) -> None:
    """Ingress and changelog belong together, partition by partition."""
    create_topic(admin, names.changelog, 2, {"cleanup.policy": "compact"})
    create_topic(admin, names.jobs, 3)
    run("topics", "apply")
    said = f"topic {names.changelog} has partitions 2 where 3 is needed"
    _not_started(run("run"), said)
    check = run("topics", "check")
    assert check.returncode == 1
    assert said in check.stderr


def test_scheduler_on_a_wrong_cleanup_policy_does_not_start(
    run: Run, names: TopicNames, admin: AdminClient
) -> None:
    """A settings topic that forgets would take rates away one by one."""
    create_topic(admin, names.tenant_settings, 1, {"cleanup.policy": "delete"})
    said = f"topic {names.tenant_settings} has cleanup.policy delete where compact is needed"
    _not_started(run("run"), said)


@pytest.mark.usefixtures("topics")
def test_scheduler_with_a_folder_that_cannot_be_written_does_not_start(
    run: Run, app_id: str, tmp_path: Path
) -> None:
    """A file where the folder should be is told in one sentence."""
    (tmp_path / "file").touch()
    sentence = refusal(run("run", "--data-dir", "file"))
    assert sentence.startswith(f"data folder file/{app_id} cannot be written (Not a directory)")


@pytest.mark.usefixtures("topics")
def test_scheduler_on_state_of_a_newer_version_does_not_start(
    run: Run, app_id: str, tmp_path: Path
) -> None:
    """State that this version cannot read is left alone, and the remedy is named."""
    store = tmp_path / "data" / app_id / "0"
    store.mkdir(parents=True)
    (store / "streamsched-format").write_text("99\n", "ascii")
    sentence = refusal(run("run"))
    assert sentence.startswith(f"store data/{app_id}/0 has format 99")
    assert "run the newer version" in sentence
    assert (store / "streamsched-format").read_text("ascii") == "99\n"


@pytest.mark.usefixtures("topics")
def test_scheduler_whose_web_port_is_in_use_does_not_start(run: Run) -> None:
    """The port and the setting are named."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("run", "--web-port", str(port))
    _not_started(done, f"the web port 127.0.0.1:{port} cannot be listened on")
    assert "STREAMSCHED_WEB_PORT" in done.stderr
