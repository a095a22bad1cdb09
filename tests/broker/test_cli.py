"""The installed program `streamsched` as a user runs it, on a real Kafka."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient

from streamsched.core.names import TopicNames
from streamsched.kafka.broker_node import free_port
from tests.broker.cluster import await_condition, create_topic

PROGRAM = str(Path(sys.executable).parent / "streamsched")
SECONDS_MAX = 60.0

Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]


@pytest.fixture
def environment(kafka: str, app_id: str) -> dict[str, str]:
    """Environment in which the program finds the shared Kafka and an application of its own."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("STREAMSCHED_")}
    return own | {
        "STREAMSCHED_BOOTSTRAP_SERVERS": kafka,
        "STREAMSCHED_APP_ID": app_id,
        # Nobody listens there, and a scheduler that should fail to start disturbs nobody.
        "STREAMSCHED_WEB_PORT": str(free_port()),
        "COLUMNS": "200",
    }


@pytest.fixture
def names(app_id: str) -> TopicNames:
    """Topic names of this test alone."""
    return TopicNames(app_id)


@pytest.fixture
def run(environment: dict[str, str], tmp_path: Path) -> Run:
    """Runs the program to its end in a folder of its own."""

    def run(*words: str, stdin: str | None = None, **variables: str) -> Done:
        return subprocess.run(
            [PROGRAM, *words],
            input="" if stdin is None else stdin,
            env=environment | variables,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX,
            check=False,
        )

    return run


@contextmanager
def _started(
    words: list[str], environment: dict[str, str], folder: Path
) -> Iterator["subprocess.Popen[str]"]:
    """The program as a running process; its messages go to `folder`/messages."""
    with (
        (folder / "messages").open("w") as messages,
        subprocess.Popen(
            [PROGRAM, *words],
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=messages,
            text=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def _refused(done: Done) -> str:
    """The one sentence of a command that failed."""
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert done.stderr.startswith("streamsched: ")
    assert done.stderr.count("\n") == 1
    return done.stderr.removeprefix("streamsched: ").rstrip("\n")


def _records(kafka: str, topic: str) -> list[Any]:
    """Every committed record of a topic, partition by partition."""
    consumer = Consumer(
        {"bootstrap.servers": kafka, "group.id": "raw", "enable.partition.eof": True}
    )
    found = []
    try:
        partitions = set(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in partitions])
        deadline = time.monotonic() + SECONDS_MAX
        while partitions:
            assert time.monotonic() < deadline, f"{topic} was not read to its end"
            message = consumer.poll(0.5)
            if message is None:
                continue
            error = message.error()
            if error is None:
                found.append(message)
            else:
                assert error.code() == KafkaError._PARTITION_EOF
                partitions.discard(message.partition())
    finally:
        consumer.close()
    return found


# --- topics --------------------------------------------------------------------------------


def test_topics_are_planned_created_and_checked(
    run: Run, names: TopicNames, admin: AdminClient
) -> None:
    """Plan shows, check fails, apply creates, check is content; the data comes as JSON."""
    plan = json.loads(run("topics", "plan", "-o", "json").stdout)
    assert not plan["complete"]
    assert {topic["state"] for topic in plan["topics"]} == {"missing"}
    failed = run("topics", "check", "-o", "json")
    assert failed.returncode == 1
    assert len(json.loads(failed.stdout)["faults"]) == 6
    applied = run("topics", "apply", "--partitions", "3", "-o", "json")
    assert applied.returncode == 0, applied.stderr
    assert json.loads(applied.stdout)["complete"]
    assert len(admin.list_topics(timeout=10).topics[names.jobs].partitions) == 3
    assert run("topics", "check").returncode == 0
    table = run("topics", "plan").stdout.splitlines()
    assert table[0].split() == ["TOPIC", "STATE", "PARTITIONS", "CLEANUP", "POLICY", "DIFFERENCES"]
    assert table[1].split() == [names.jobs, "ok", "3", "delete"]


def test_apply_that_cannot_do_what_was_asked_fails(run: Run, names: TopicNames) -> None:
    """Another partition count for topics that exist is told and not done."""
    assert run("topics", "apply", "--partitions", "2").returncode == 0
    again = run("topics", "apply", "--partitions", "5")
    assert again.returncode == 1
    assert f"topic {names.jobs} has partitions 2 where 5 was asked for" in again.stderr


def test_too_many_copies_are_one_sentence(run: Run, names: TopicNames) -> None:
    """The broker's refusal names the topic."""
    sentence = _refused(run("topics", "apply", "--replication-factor", "7"))
    assert sentence.startswith(f"topic {names.jobs} cannot be created: ")


# --- jobs and tenants ----------------------------------------------------------------------


@pytest.fixture
def topics(run: Run) -> None:
    """The topics of this test's application."""
    assert run("topics", "apply", "--partitions", "3").returncode == 0


@pytest.mark.usefixtures("topics")
def test_job_is_submitted_as_described(
    run: Run, kafka: str, names: TopicNames, tmp_path: Path
) -> None:
    """Every option arrives on the ingress topic, bytes of a file untouched."""
    (tmp_path / "body").write_bytes(b"\x00\xff")
    words = ["jobs", "submit", "--tenant", "acme", "--id", "ä", "--delay", "1h30m", "--key", "k"]
    words += ["--payload-file", "body", "--header", "a=1", "--header", "a=2=3"]
    done = run(*words, "--expires-at", "2030-01-01T00:00:00.0009Z", "-o", "json")
    assert done.returncode == 0, done.stderr
    (record,) = _records(kafka, names.jobs)
    assert json.loads(done.stdout) == {
        "tenant": "acme",
        "id": "ä",
        "partition": record.partition(),
        "offset": record.offset(),
    }
    assert (record.key(), record.value()) == (b"acme", b"\x00\xff")
    assert record.headers() == [
        ("a", b"1"),
        ("a", b"2=3"),
        ("streamsched-id", "ä".encode()),
        ("streamsched-delay-ms", b"5400000"),
        ("streamsched-expires-at", b"1893456000000"),
        ("streamsched-key", b"k"),
    ]


@pytest.mark.usefixtures("topics")
def test_cancel_is_a_null_value_on_the_same_partition(
    run: Run, kafka: str, names: TopicNames
) -> None:
    """A cancel follows its job."""
    run("jobs", "submit", "--tenant", "t", "--id", "1", "--delay", "1h", "--payload", "x")
    assert run("jobs", "cancel", "t", "1").returncode == 0
    job, cancel = _records(kafka, names.jobs)
    assert (cancel.partition(), cancel.value()) == (job.partition(), None)
    assert cancel.headers() == [("streamsched-id", b"1"), ("streamsched-op", b"cancel")]


@pytest.mark.usefixtures("topics")
def test_json_lines_with_bad_ones_among_them(run: Run, kafka: str, names: TopicNames) -> None:
    """Good lines go through byte for byte and in order; each bad one is named by its number."""
    lines = [
        '{"id": "1", "tenant": "a", "due_at": "2030-01-01T00:00:00Z", "payload": {"n":1.10 }}',
        "no json",
        "",
        '{"id": "2", "delay_ms": 3600000, "payload": 12345678901234567890123, "key": "k"}',
        '{"id": "3", "tenant": "a", "due": 1, "payload": 1}',
        '{"id": "4", "tenant": "a", "due_at": 1893456000, "payload": 1}',
        '{"id": "5", "delay_ms": 0, "payload": "", "headers": {"streamsched-op": "cancel"}}',
        '{"id": "1", "tenant": "a", "op": "cancel"}',
        '{"id": "6", "tenant": "a", "delay_ms": 1}',
    ]
    words = ("jobs", "submit", "--tenant", "a", "-o", "json")
    done = run(*words, stdin="\n".join(lines))
    assert done.returncode == 1
    outcome = json.loads(done.stdout)
    assert (outcome["submitted"], outcome["cancelled"], outcome["refused"]) == (2, 1, 5)
    assert [fault["line"] for fault in outcome["faults"]] == [2, 5, 6, 7, 9]
    told = done.stderr.splitlines()
    assert [line.split(":")[1] for line in told] == [f" line {n}" for n in (2, 5, 6, 7, 9)]
    assert "unknown field 'due'" in told[1]
    assert "are these seconds?" in told[2]
    assert [
        (r.value(), dict(r.headers())["streamsched-id"]) for r in _records(kafka, names.jobs)
    ] == [
        (b'{"n":1.10 }', b"1"),
        (b"12345678901234567890123", b"2"),
        (None, b"1"),
    ]


@pytest.mark.usefixtures("topics")
def test_many_json_lines(run: Run, kafka: str, names: TopicNames) -> None:
    """Several chunks of lines all arrive, and without a tenant each line needs its own."""
    line = '{"id": "%d", "tenant": "t%d", "due_at": 1893456000000, "payload": %d}'
    count = 5_000
    done = run(
        "jobs", "submit", "-o", "json", stdin="\n".join(line % (n, n % 7, n) for n in range(count))
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["submitted"] == count
    assert sorted(int(r.value()) for r in _records(kafka, names.jobs)) == list(range(count))
    refused = run("jobs", "submit", stdin='{"id": "1", "delay_ms": 1, "payload": 1}')
    assert refused.returncode == 1
    assert "--tenant" in refused.stderr


@pytest.mark.usefixtures("topics")
def test_input_that_is_something_else_is_not_read_to_its_end(run: Run) -> None:
    """After 1,000 refused lines the rest is left, and that is said."""
    done = run("jobs", "submit", "-o", "json", stdin="?\n" * 3_000)
    assert done.returncode == 1
    assert json.loads(done.stdout)["refused"] == 1_000
    assert "stopped before the end of the input" in done.stderr.splitlines()[-1]


@pytest.mark.usefixtures("topics")
def test_settings_are_published_changed_and_listed(run: Run, kafka: str, names: TopicNames) -> None:
    """Set, pause, resume and unset write whole records; list shows what is published."""
    words = ["tenants", "set", "acme", "--rate", "40/s", "--burst", "3", "--events", "all"]
    assert run(*words).returncode == 0
    assert run("tenants", "set", "*", "--rate", "1/s", "--no-paused").returncode == 0
    assert run("tenants", "pause", "acme").returncode == 0
    listed = run("tenants", "list", "-o", "json")
    assert listed.returncode == 0
    assert "no scheduler answers at" in listed.stderr
    shown = {row["tenant"]: row for row in json.loads(listed.stdout)}
    assert list(shown) == ["*", "acme"]
    assert shown["acme"]["state"] is None
    assert shown["acme"]["settings"]["paused"] is True
    assert run("tenants", "resume", "acme").returncode == 0
    assert run("tenants", "unset", "acme").returncode == 0
    published = [(r.key(), r.value()) for r in _records(kafka, names.tenant_settings)]
    assert [(key, value and json.loads(value)) for key, value in published] == [
        (b"acme", {"rate": "40/s", "burst": 3, "events": "all"}),
        (b"*", {"rate": "1/s", "paused": False}),
        (b"acme", {"rate": "40/s", "burst": 3, "events": "all", "paused": True}),
        (b"acme", {"rate": "40/s", "burst": 3, "events": "all", "paused": False}),
        (b"acme", None),
    ]


@pytest.mark.usefixtures("topics")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tenants", "set", "acme", "--rate", "0/s"], "would stop the tenant for ever"),
        (["tenants", "set", "a.b", "--rate", "1/s"], "tenant 'a.b' is not legal"),
        (["tenants", "set", "acme", "--egress-topic", "__x"], "is reserved"),
        (["jobs", "cancel", "acme", ""], "id '' has 0 bytes"),
        (
            ["jobs", "submit", "--tenant", "a b", "--delay", "1s", "--payload", "x"],
            "tenant 'a b' is not legal",
        ),
        (["jobs", "submit", "--tenant", "a", "--delay", "9999d", "--payload", ""], "ten years"),
        (["egress", "tail", "a b"], "tenant 'a b' is not legal"),
    ],
)
def test_what_the_contract_refuses_is_one_sentence(run: Run, words: list[str], said: str) -> None:
    """Values that the scheduler would not accept are refused before anything is published."""
    assert said in _refused(run(*words))


# --- what is wrong around it ---------------------------------------------------------------


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
    sentence = _refused(run(*words, "--bootstrap-servers", away))
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
    sentence = _refused(run(*words))
    assert sentence.endswith("is missing: run `streamsched topics apply`")


def test_wrong_client_option_is_one_sentence(run: Run) -> None:
    """An option that librdkafka does not know is named."""
    assert '"foo"' in _refused(run("topics", "plan", STREAMSCHED_KAFKA__FOO="1"))


@pytest.mark.parametrize("words", [["broker"], ["dev"]])
def test_port_in_use_is_one_sentence(run: Run, kafka: str, words: list[str]) -> None:
    """The embedded Kafka does not start on a port that somebody has."""
    port = kafka.rpartition(":")[2]
    assert _refused(run(*words, "--port", port)).startswith(f"port {port} of 127.0.0.1 is in use")


def test_broker_with_a_folder_that_cannot_be_written(run: Run, tmp_path: Path) -> None:
    """A file where the folder should be is told in one sentence."""
    (tmp_path / "file").touch()
    sentence = _refused(run("broker", "--port", "0", "--data-dir", "file"))
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
    sentence = _refused(run("run", "--data-dir", "file"))
    assert sentence.startswith(f"data folder file/{app_id} cannot be written (Not a directory)")


@pytest.mark.usefixtures("topics")
def test_scheduler_on_state_of_a_newer_version_does_not_start(
    run: Run, app_id: str, tmp_path: Path
) -> None:
    """State that this version cannot read is left alone, and the remedy is named."""
    store = tmp_path / "data" / app_id / "0"
    store.mkdir(parents=True)
    (store / "streamsched-format").write_text("99\n", "ascii")
    sentence = _refused(run("run"))
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


# --- schedulers ----------------------------------------------------------------------------


def _await_ready(run: Run, *urls: str) -> None:
    """Wait until the schedulers at `urls` answer for all their partitions."""
    from streamsched.cli.pages import is_ready  # noqa: PLC0415

    for url in urls:
        await_condition(f"{url} is ready", lambda url=url: is_ready(url))


@pytest.mark.usefixtures("topics")
def test_job_goes_all_the_way(run: Run, environment: dict[str, str], tmp_path: Path) -> None:
    """Submitted, shown, listed, dispatched and read, by commands alone; SIGTERM ends it well."""
    with _started(["run"], environment, tmp_path) as scheduler:
        _await_ready(run, f"http://127.0.0.1:{environment['STREAMSCHED_WEB_PORT']}")
        submit = ["jobs", "submit", "--tenant", "acme", "--payload", "hällo"]
        assert run(*submit, "--id", "later", "--delay", "1h").returncode == 0
        assert run(*submit, "--id", "now", "--delay", "0", "--header", "a=b").returncode == 0
        words = ["egress", "tail", "acme", "--from-beginning", "--max", "1", "--timeout", "30"]
        (line,) = run(*words, "-o", "json").stdout.splitlines()
        job = json.loads(line)
        assert (job["id"], job["key"], job["payload"]) == ("now", "now", "hällo")
        assert job["headers"] == [{"name": "a", "value": "b"}]
        shown = json.loads(run("jobs", "show", "acme", "later", "-o", "json").stdout)
        assert (shown["id"], shown["status"]) == ("later", "pending")
        assert "no pending job 'now'" in _refused(run("jobs", "show", "acme", "now"))
        table = run("tenants", "list").stdout.splitlines()
        assert table[1].split()[:7] == ["acme", "ok", "unlimited", "1", "no", "1", "0"]
        scheduler.send_signal(signal.SIGTERM)
        assert scheduler.wait(20) == 0, (tmp_path / "messages").read_text("utf-8")


def _schedulers(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """The schedulers under the guardians of `streamsched run --processes` or `dev`."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if (
                child.cmdline()[-2:] == ["streamsched.cli.main", "run"]
                and "-I" not in child.cmdline()
            ):
                found.append(child)
    return found


@pytest.mark.usefixtures("topics")
@pytest.mark.parametrize("end", ["SIGTERM", "death of one", "death of the parent"])
def test_several_processes_live_and_end_together(
    run: Run, environment: dict[str, str], app_id: str, tmp_path: Path, end: str
) -> None:
    """Each has its own folder and pages; one that dies takes the others down with status 1."""
    first = free_port()
    while not _is_free(first + 1):
        first = free_port()
    words = ["run", "--processes", "2", "--web-port", str(first)]
    with _started(words, environment, tmp_path) as parent:
        urls = [f"http://127.0.0.1:{port}" for port in (first, first + 1)]
        _await_ready(run, *urls)
        await_condition(
            "each has a store",
            lambda: all(any((tmp_path / f"data/process.{n}/{app_id}").glob("*")) for n in (0, 1)),
        )
        schedulers = _schedulers(parent)
        assert len(schedulers) == 2
        if end == "death of one":
            schedulers[1].kill()
            assert parent.wait(20) == 1
            assert "of 2 was killed by signal 9" in (tmp_path / "messages").read_text("utf-8")
        elif end == "death of the parent":
            parent.kill()
        else:
            parent.send_signal(signal.SIGTERM)
            assert parent.wait(20) == 0
        _, alive = psutil.wait_procs(schedulers, timeout=20)
        assert alive == []


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_dev_has_everything(environment: dict[str, str], run: Run, tmp_path: Path) -> None:
    """Kafka, topics and a scheduler come up together, dispatch, and end on Ctrl-C."""
    web = f"http://127.0.0.1:{environment['STREAMSCHED_WEB_PORT']}"
    with _started(["dev", "--port", "0"], environment, tmp_path) as dev:
        assert dev.stdout is not None
        address = dev.stdout.readline().strip()
        _await_ready(run, web)
        await_condition(
            "it tells how to go on",
            lambda: (
                f"jobs submit --bootstrap-servers {address}"
                in (tmp_path / "messages").read_text("utf-8")
            ),
        )
        here = ("--bootstrap-servers", address)
        job = ["jobs", "submit", "--tenant", "t", "--delay", "0", "--payload", "x", *here]
        assert run(*job).returncode == 0
        words = ["egress", "tail", "t", "--from-beginning", "--max", "1", "--timeout", "30", *here]
        assert run(*words).stdout.endswith("  x\n")
        processes = psutil.Process(dev.pid).children(recursive=True)
        dev.send_signal(signal.SIGINT)
        assert dev.wait(40) == 0, (tmp_path / "messages").read_text("utf-8")
        _, alive = psutil.wait_procs(processes, timeout=20)
        assert alive == []


def test_dev_ends_when_its_scheduler_dies(environment: dict[str, str], tmp_path: Path) -> None:
    """A scheduler that is killed ends the rest with status 1 and a sentence."""
    with _started(["dev", "--port", "0"], environment, tmp_path) as dev:
        assert dev.stdout is not None
        dev.stdout.readline()
        await_condition("the scheduler runs", lambda: bool(_schedulers(dev)))
        _schedulers(dev)[0].kill()
        assert dev.wait(40) == 1
        said = (tmp_path / "messages").read_text("utf-8").splitlines()
        assert said[-1] == "streamsched: the scheduler was killed by signal 9"
