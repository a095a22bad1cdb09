"""Connections that a cluster refuses: one sentence that names the fault, and exit status 1.

Each is tried with the command that looks at topics and with the one that runs a scheduler.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from streamsched.kafka.broker_security import key_and_chain
from streamsched.kafka.embedded import EmbeddedKafka
from tests.broker.program import Done, Run, environment_for, refusal, runner
from tests.connecting import client_options, settings_variables
from tests.old_broker import api_versions, server

pytestmark = pytest.mark.timeout(240)

KEYSTORE = "listener.name.clients.ssl.keystore.location"


Refused = Callable[..., None]
"""Options of a client; the beginning of the sentence that both commands say; what else is in it."""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs the program with nothing set but what is given."""
    return runner(environment_for("", "refused"), tmp_path)


@pytest.fixture
def refused(run: Run) -> Refused:
    """Both commands say one and the same sentence."""

    def both(options: Mapping[str, str], start: str, *parts: str) -> None:
        variables = settings_variables(options)
        with ThreadPoolExecutor(2) as pool:
            started = pool.submit(run, "run", **variables)
            sentence = refusal(run("topics", "check", **variables))
            told = _not_started(started.result())
        print(sentence)
        assert sentence.startswith(start), sentence
        assert told == sentence
        for part in parts:
            assert part in sentence, sentence

    return both


def _not_started(done: Done) -> str:
    """What a scheduler says that does not start: once, without a traceback."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    [said] = [line["event"] for line in lines if line["level"] in {"error", "critical"}]
    return str(said)


@contextlib.contextmanager
def _shown(secured: EmbeddedKafka, certificate: trustme.LeafCert, file: Path) -> Iterator[None]:
    """The listener for clients shows this certificate meanwhile."""
    assert secured.security is not None
    file.write_bytes(key_and_chain(certificate))
    own = secured.security.node_options()
    peers = {"bootstrap.servers": f"127.0.0.1:{secured.nodes[0].peer_port}"}
    admin = AdminClient({**peers, **own})

    def show(path: str) -> None:
        entry = ConfigEntry(KEYSTORE, path, incremental_operation=AlterConfigOpType.SET)
        broker = ConfigResource(ResourceType.BROKER, "1", incremental_configs=[entry])
        admin.incremental_alter_configs([broker])[broker].result(20)

    show(str(file))
    try:
        yield
    finally:
        show(own["ssl.key.location"])


@pytest.mark.parametrize(("user", "password"), [("admin", "looking-glass"), ("nobody", "x")])
def test_login_that_is_refused(
    refused: Refused, secured: EmbeddedKafka, user: str, password: str
) -> None:
    """A wrong password and an unknown user, which Kafka tells from each other to nobody."""
    refused(
        {**secured.client_options, "sasl.username": user, "sasl.password": password},
        f"Kafka at {secured.bootstrap_servers} does not let user '{user}' in (",
        "STREAMSCHED_KAFKA__SASL_PASSWORD_FILE",
        "have the user created",
    )


def test_authority_that_is_not_trusted(
    refused: Refused, secured: EmbeddedKafka, tmp_path: Path
) -> None:
    """The broker's certificate comes from somebody else than who is trusted."""
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    refused(
        {**secured.client_options, "ssl.ca.location": str(tmp_path / "other.pem")},
        f"the certificate of Kafka at {secured.bootstrap_servers} is signed by an authority that "
        "is not trusted here (",
        "STREAMSCHED_KAFKA__SSL_CA_LOCATION",
    )


def test_certificate_that_has_expired(
    refused: Refused, secured: EmbeddedKafka, tmp_path: Path
) -> None:
    """It is told from all other faults of a certificate."""
    assert secured.security is not None
    ended = datetime(2020, 1, 1, tzinfo=UTC)
    expired = secured.security.authority.issue_cert("127.0.0.1", not_after=ended)
    with _shown(secured, expired, tmp_path / "expired.pem"):
        refused(
            secured.client_options,
            f"the certificate of Kafka at {secured.bootstrap_servers} has expired: ",
        )


def test_certificate_for_another_name(
    refused: Refused, run: Run, secured: EmbeddedKafka, tmp_path: Path
) -> None:
    """The names that it is for are told; where names are not looked at, it is good."""
    assert secured.security is not None
    other = secured.security.authority.issue_cert("kafka.example", "10.1.2.3")
    options = secured.client_options
    with _shown(secured, other, tmp_path / "other.pem"):
        refused(
            options,
            f"the certificate of Kafka at {secured.bootstrap_servers} is for other names "
            "(kafka.example, 10.1.2.3): ",
            "STREAMSCHED_BOOTSTRAP_SERVERS",
        )
        done = run(
            *("topics", "plan"),
            **settings_variables({**options, "ssl.endpoint.identification.algorithm": "none"}),
        )
        assert done.returncode == 0, done.stderr


def test_plain_text_to_a_listener_with_tls(refused: Refused, secured: EmbeddedKafka) -> None:
    """Both sides of the difference are named; no password is sent to see what happens."""
    where = secured.bootstrap_servers
    refused(
        {"bootstrap.servers": where},
        f"Kafka at {where} wants TLS, and security.protocol is plaintext: ",
        "set STREAMSCHED_KAFKA__SECURITY_PROTOCOL to (sasl_)ssl",
    )
    login = {name: v for name, v in secured.client_options.items() if not name.startswith("ssl.")}
    refused(
        {**login, "security.protocol": "sasl_plaintext"},
        f"Kafka at {where} wants TLS, and security.protocol is sasl_plaintext: ",
        "set STREAMSCHED_KAFKA__SECURITY_PROTOCOL to sasl_ssl",
    )


def test_tls_to_a_listener_in_plain_text(
    refused: Refused, secured: EmbeddedKafka, kafka: str
) -> None:
    """Both sides of the difference are named."""
    if "security.protocol" in client_options(kafka):
        pytest.skip("the tests run on a secured Kafka, so there is none in plain text")
    refused(
        {**secured.client_options, "bootstrap.servers": kafka},
        f"Kafka at {kafka} does not speak TLS, and security.protocol is sasl_ssl: ",
        "set STREAMSCHED_KAFKA__SECURITY_PROTOCOL to sasl_plaintext",
    )


def test_listener_that_wants_a_certificate(
    refused: Refused, run: Run, secured: EmbeddedKafka, tmp_path: Path
) -> None:
    """Without one the client is refused; with one that the brokers trust it is let in."""
    assert secured.security is not None
    where = f"127.0.0.1:{secured.nodes[0].peer_port}"
    options = {
        "bootstrap.servers": where,
        "security.protocol": "ssl",
        "ssl.ca.location": str(secured.security.ca_file),
    }
    said = (
        f"Kafka at {where} does not take this client's certificate (",
        "STREAMSCHED_KAFKA__SSL_CERTIFICATE_LOCATION",
    )
    refused(options, *said)
    file = tmp_path / "own.pem"
    own = {"ssl.certificate.location": str(file), "ssl.key.location": str(file)}
    file.write_bytes(key_and_chain(trustme.CA().issue_cert("x", common_name="mallory")))
    refused({**options, **own}, *said)
    authority = secured.security.authority
    file.write_bytes(key_and_chain(authority.issue_cert("x", common_name="admin")))
    done = run("topics", "plan", **settings_variables({**options, **own}))
    assert done.returncode == 0, done.stderr


def test_user_who_may_not_look_at_topics(run: Run, secured: EmbeddedKafka) -> None:
    """What may not be seen is not taken for missing; a scheduler tells all that it lacks."""
    variables = settings_variables(secured.add_user("dora", "explorer"))
    checked = refusal(run("topics", "check", **variables))
    assert checked.startswith(
        "topic refused.jobs cannot be looked at: this user lacks Describe and DescribeConfigs on"
    )
    started = _not_started(run("run", **variables))
    assert started.startswith(
        "this user lacks Read, Write and DescribeConfigs on topic refused.jobs"
    )
    assert "on topic refused-jobs-changelog" in started


def test_more_copies_than_brokers(run: Run, secured: EmbeddedKafka) -> None:
    """A cluster of one cannot keep three copies: which setting to change is named."""
    done = run(
        *("topics", "apply", "--replication-factor", "3"),
        **settings_variables(secured.client_options),
    )
    sentence = refusal(done)
    print(sentence)
    assert sentence.startswith("topic refused.")
    assert "cannot be created: " in sentence
    assert "replication factor" in sentence
    assert sentence.endswith("lower STREAMSCHED_REPLICATION_FACTOR")


def test_broker_that_is_too_old(refused: Refused) -> None:
    """What a broker of 2.4 answers to the first question is enough."""
    with server(api_versions({18: (0, 3), 22: (0, 2)})) as address:
        refused(
            {"bootstrap.servers": address},
            f"Kafka at {address} is older than 2.5, and streamsched needs its transactions (",
            "upgrade the brokers",
        )


def test_option_that_no_client_knows(refused: Refused, secured: EmbeddedKafka) -> None:
    """A wrong spelling is named, with where to correct it."""
    refused(
        {**secured.client_options, "securty.protocol": "ssl"},
        "Kafka's client does not accept its options (No such configuration property: \"securty.",
        "STREAMSCHED_KAFKA__",
    )
