"""The embedded Kafka, secured: who gets in, who may do what, and what it writes down."""

import contextlib
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import psutil
import pytest
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from streamsched.kafka.embedded import EmbeddedKafka
from tests.broker.cluster import await_condition
from tests.broker.test_security_commands import START

pytestmark = pytest.mark.timeout(240)


def _produce(options: dict[str, str], topic: str) -> KafkaError | None:
    """One record; why it was refused."""
    outcome: list[KafkaError | None] = []
    producer = Producer({**options, "message.timeout.ms": 10_000, "log_level": 0})
    producer.produce(topic, b"x", on_delivery=lambda error, _: outcome.append(error))
    assert producer.flush(20) == 0
    return outcome[0]


def test_user_may_do_what_an_acl_allows_and_nothing_else(secured: EmbeddedKafka) -> None:
    """The first user may do everything; another one may write once an ACL says so."""
    admin = AdminClient(secured.client_options)
    admin.create_topics([NewTopic("t", 1)])["t"].result(20)
    assert _produce(secured.client_options, "t") is None

    alice = secured.add_user("alice", "a password of hers")
    refusal = _produce(alice, "t")
    assert refusal is not None
    assert refusal.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED

    for operation in (AclOperation.WRITE, AclOperation.DESCRIBE):
        rule = AclBinding(
            *(ResourceType.TOPIC, "t", ResourcePatternType.LITERAL),
            *("User:alice", "*", operation, AclPermissionType.ALLOW),
        )
        admin.create_acls([rule])[rule].result(20)
    await_condition("alice may write", lambda: _produce(alice, "t") is None)
    hers = AdminClient(alice)
    with pytest.raises(KafkaException, match="TOPIC_AUTHORIZATION_FAILED"):
        hers.create_topics([NewTopic("another", 1)])["another"].result(20)


def test_password_of_a_user_can_be_changed(secured: EmbeddedKafka) -> None:
    """The new one is good for all nodes when the call returns, and the old one is not any more."""
    before = secured.add_user("bob", "the first")
    after = secured.add_user("bob", "the second")
    assert AdminClient(after).list_topics(timeout=10).brokers
    with pytest.raises(KafkaException):
        AdminClient({**before, "log_level": 0}).list_topics(timeout=3)


def test_secrets_can_be_read_by_their_owner_only(secured: EmbeddedKafka) -> None:
    """No other user of the machine reads a key or the password, and no argument shows one."""
    assert secured.security is not None
    folder = secured.security.ca_file.parent
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    secret = {"ca-key.pem", "nodes.pem", "admin.password"}
    assert {name for name, mode in modes.items() if mode == 0o600} == secret
    assert set(modes) == secret | {"ca.pem", "streamsched.toml"}
    password = secured.security.password
    assert len(password) >= 32
    # Folders and files of topics that are being removed vanish while one looks; `walk` allows it.
    for parent, _, names in os.walk(folder.parent):
        for path in (Path(parent, name) for name in names if name != "admin.password"):
            with contextlib.suppress(FileNotFoundError):
                assert password.encode() not in path.read_bytes(), path
    for process in psutil.process_iter(["cmdline"]):
        assert password not in " ".join(process.info["cmdline"] or [])


def test_command_tells_where_the_settings_for_clients_are(tmp_path: Path) -> None:
    """`broker --secure --nodes 3` names a streamsched.toml, which is all that a client needs."""
    program = [sys.executable, "-m", "streamsched.cli.main"]
    command = [*program, *START.split()[1:], "--nodes", "3", "--port", "0"]
    own = {k: v for k, v in os.environ.items() if not k.startswith("STREAMSCHED_")}
    with subprocess.Popen(
        [*command, "--data-dir", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=own,
        cwd=tmp_path,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            addresses = process.stdout.readline().strip()
            client_file = tmp_path / "embedded.kafka" / "security" / "streamsched.toml"
            told = f"settings for clients are in {client_file}: "
            assert any(told in line for line in process.stderr)
            written = tomllib.loads(client_file.read_text("utf-8"))
            assert written["bootstrap_servers"] == addresses
            assert addresses.count(",") == 2
            folder = tmp_path / "client"
            folder.mkdir()
            (folder / "streamsched.toml").write_bytes(client_file.read_bytes())
            done = subprocess.run(
                [*program, "topics", "apply"],
                env=own,
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, done.stderr
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
    assert process.returncode == 0


def test_users_and_certificates_survive_a_restart(secured: EmbeddedKafka) -> None:
    """Who has the options of the first start, or is a user since then, gets in after a kill too."""
    carol = secured.add_user("carol", "hers")
    first = secured.client_options
    secured.kill()
    secured.start()
    assert secured.client_options == first
    for options in (first, carol):
        assert AdminClient(options).list_topics(timeout=10).brokers
