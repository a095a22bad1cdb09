"""The doctor's links up to a broker's socket, each fault provoked by a real socket."""

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from streamsched.doctor import links
from streamsched.doctor.checkup import (
    Address,
    Check,
    Outcome,
    Subject,
    Verdict,
    examine,
    failed,
    ok,
    warning,
    worst,
)
from streamsched.doctor.links import addresses
from streamsched.settings import Settings

LINKS = (
    Check("settings", links.check_settings),
    Check("names", links.check_names, ("settings",)),
    Check("port", links.check_ports, ("names",)),
    Check("TLS", links.check_tls, ("port",)),
    Check("version", links.check_version, ("TLS",)),
)

KAFKA_4 = {18: 4, 3: 13, 22: 5}
KAFKA_2_5 = {18: 3, 3: 9, 22: 3}
KAFKA_2_4 = {18: 3, 3: 9, 22: 2}


class FakeBroker:
    """Listens, and answers the one request of the doctor as a broker with `requests` would.

    With `tls` it speaks that; without `requests` it closes each connection on its first byte.
    """

    def __init__(
        self, requests: dict[int, int] | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self._requests = requests
        self._tls = tls
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with suppress(OSError), ExitStack() as stack:
                stack.enter_context(connection)
                if self._tls is not None:
                    connection = stack.enter_context(
                        self._tls.wrap_socket(connection, server_side=True)
                    )
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        head = connection.recv(4)
        if len(head) < 4 or self._requests is None:
            return
        body = connection.recv(struct.unpack(">i", head)[0])
        key, version, correlation = struct.unpack_from(">hhi", body)
        if (key, version) != (18, 0):
            return
        rows = b"".join(struct.pack(">hhh", k, 0, newest) for k, newest in self._requests.items())
        answer = struct.pack(">ihi", correlation, 0, len(self._requests)) + rows
        connection.sendall(struct.pack(">i", len(answer)) + answer)


@pytest.fixture
def broker() -> Iterator[Callable[..., FakeBroker]]:
    """Makes fake brokers and closes them at the end."""
    with ExitStack() as stack:

        def make(*words: Any, **options: Any) -> FakeBroker:
            made = FakeBroker(*words, **options)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    """An authority of this test, its certificate in the test's folder."""
    made = trustme.CA()
    made.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    return made


def _server_tls(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def _client_tls(folder: Path) -> dict[str, str]:
    return {"security.protocol": "ssl", "ssl.ca.location": str(folder / "authority.pem")}


def _look(servers: str, kafka: dict[str, str] | None = None) -> dict[str, tuple[Outcome, str]]:
    settings = Settings(bootstrap_servers=servers, kafka=kafka or {})
    return {f.check: (f.outcome, f.sentence) for f in examine(Subject(settings), LINKS)}


# --- the order of checks -------------------------------------------------------------------


def test_checks_behind_a_failed_one_are_skipped_and_say_so() -> None:
    """What hangs on a failed check is not made, over several steps; the rest is."""
    asked = []

    def look(verdict: Verdict) -> Callable[[Subject], Verdict]:
        def made(_subject: Subject) -> Verdict:
            asked.append(verdict.sentence)
            return verdict

        return made

    checks = (
        Check("a", look(failed("broken: mend it"))),
        Check("b", look(ok("b")), ("a",)),
        Check("c", look(ok("c")), ("b",)),
        Check("d", look(warning("d"))),
        Check("e", look(ok("e")), ("d",)),
    )
    found = examine(Subject(Settings()), checks)
    assert asked == ["broken: mend it", "d", "e"]
    assert [f.outcome.value for f in found] == ["failed", "skipped", "skipped", "warning", "ok"]
    assert found[2].sentence == "not looked at, because a failed"


def test_worst_keeps_every_sentence() -> None:
    """A verdict of several parts is as bad as its worst, and tells all that is wrong."""
    assert worst(["f"], ["w"], "well") == failed("f; w")
    assert worst([], ["w", "x"], "well") == warning("w; x")
    assert worst([], [], "well") == ok("well")


# --- settings, names, ports ----------------------------------------------------------------


def test_addresses_of_all_spellings() -> None:
    """Ports, schemes and IPv6 are read as librdkafka reads them."""
    settings = Settings(bootstrap_servers="a:1, b ,SSL://c:3,[::1]:4")
    assert [str(a) for a in addresses(settings)] == ["a:1", "b:9092", "c:3", "[::1]:4"]
    assert addresses(settings)[3] == Address("::1", 4)


@pytest.mark.parametrize(
    ("servers", "kafka", "said"),
    [
        ("localhost:http", {}, "STREAMSCHED_BOOTSTRAP_SERVERS"),
        ("localhost:1", {"security.protocl": "x"}, "security"),
        ("localhost:1", {"client.id": "x", "no.such.option": "x"}, "no.such.option"),
    ],
)
def test_options_that_no_client_takes(servers: str, kafka: dict[str, str], said: str) -> None:
    """A wrong address or option fails first, and nothing else is tried."""
    found = _look(servers, kafka)
    assert found["settings"][0] is Outcome.FAILED
    assert said in found["settings"][1]
    assert {outcome for outcome, _ in found.values()} == {Outcome.FAILED, Outcome.SKIPPED}


def test_host_that_nobody_knows(broker: Callable[..., FakeBroker]) -> None:
    """One unknown host among good ones is a warning; alone it ends the checks."""
    good = f"127.0.0.1:{broker(KAFKA_4).port}"
    found = _look(f"no-such-host.invalid:1,{good}")
    assert found["names"][0] is Outcome.WARNING
    assert "host no-such-host.invalid is not known here" in found["names"][1]
    assert found["version"][0] is Outcome.OK
    alone = _look("no-such-host.invalid:1")
    assert (alone["names"][0], alone["port"][0]) == (Outcome.FAILED, Outcome.SKIPPED)


def test_name_service_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolution that nothing can interrupt is given up, and named."""
    ended = threading.Event()
    monkeypatch.setattr(links, "LINK_SECONDS_MAX", 0.1)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: ended.wait(60))
    try:
        outcome, sentence = _look("slow.example:1")["names"]
    finally:
        ended.set()
    assert outcome is Outcome.FAILED
    assert "no answer within" in sentence


def test_port_that_is_closed(broker: Callable[..., FakeBroker]) -> None:
    """A refused connection is told with its reason; one good address is enough to go on."""
    found = _look("127.0.0.1:1")
    assert found["port"][0] is Outcome.FAILED
    assert found["port"][1].startswith("127.0.0.1:1 takes no connection (Connection refused): ")
    found = _look(f"127.0.0.1:1,127.0.0.1:{broker(KAFKA_4).port}")
    assert (found["port"][0], found["version"][0]) == (Outcome.WARNING, Outcome.OK)


# --- TLS -----------------------------------------------------------------------------------


def test_good_certificate(
    broker: Callable[..., FakeBroker], authority: trustme.CA, tmp_path: Path
) -> None:
    """A certificate of the trusted authority for the very name passes, and Kafka answers in it."""
    tls = _server_tls(authority.issue_cert("localhost"))
    found = _look(f"localhost:{broker(KAFKA_4, tls=tls).port}", _client_tls(tmp_path))
    assert found["TLS"][0] is Outcome.OK, found
    assert found["version"] == (Outcome.OK, "Kafka 2.8 or newer")


@pytest.mark.parametrize(
    ("name", "days", "outcome", "said"),
    [
        ("localhost", -1, Outcome.FAILED, "has expired: renew it"),
        ("localhost", 3, Outcome.WARNING, "ends in 2 days: renew it"),
        ("other.example", 30, Outcome.FAILED, "is for another name than localhost"),
    ],
)
def test_certificate_that_is_not_good(
    broker: Callable[..., FakeBroker],
    authority: trustme.CA,
    tmp_path: Path,
    name: str,
    days: int,
    outcome: Outcome,
    said: str,
) -> None:
    """An expired one and one for another name fail; one that soon ends is told beforehand."""
    now = datetime.now(UTC)
    certificate = authority.issue_cert(
        name, not_before=now - timedelta(days=60), not_after=now + timedelta(days=days)
    )
    server = broker(KAFKA_4, tls=_server_tls(certificate))
    found = _look(f"localhost:{server.port}", _client_tls(tmp_path))
    assert found["TLS"][0] is outcome
    assert said in found["TLS"][1]


def test_certificate_of_another_authority(
    broker: Callable[..., FakeBroker], authority: trustme.CA, tmp_path: Path
) -> None:
    """Where the authority is not the one that was named, the setting is."""
    del authority
    server = broker(KAFKA_4, tls=_server_tls(trustme.CA().issue_cert("localhost")))
    outcome, sentence = _look(f"localhost:{server.port}", _client_tls(tmp_path))["TLS"]
    assert outcome is Outcome.FAILED
    assert "is not trusted" in sentence
    assert "STREAMSCHED_KAFKA__SSL_CA_LOCATION" in sentence


def test_certificate_that_is_not_verified(
    broker: Callable[..., FakeBroker], authority: trustme.CA, tmp_path: Path
) -> None:
    """Switched off, verification is missed, and everything works."""
    server = broker(KAFKA_4, tls=_server_tls(authority.issue_cert("other.example")))
    options = _client_tls(tmp_path) | {"enable.ssl.certificate.verification": "false"}
    found = _look(f"localhost:{server.port}", options)
    assert found["TLS"][0] is Outcome.WARNING
    assert "not verified" in found["TLS"][1]
    assert found["version"][0] is Outcome.OK


def test_certificate_of_the_client_is_wanted(
    broker: Callable[..., FakeBroker], authority: trustme.CA, tmp_path: Path
) -> None:
    """A broker that asks for one is told apart from one that does not answer."""
    tls = _server_tls(authority.issue_cert("localhost"))
    authority.configure_trust(tls)
    tls.verify_mode = ssl.CERT_REQUIRED
    found = _look(f"localhost:{broker(KAFKA_4, tls=tls).port}", _client_tls(tmp_path))
    said = [sentence for outcome, sentence in found.values() if outcome is Outcome.FAILED]
    assert len(said) == 1, found
    assert "STREAMSCHED_KAFKA__SSL_CERTIFICATE_LOCATION" in said[0]


def test_tls_towards_a_port_without_it(
    broker: Callable[..., FakeBroker], authority: trustme.CA, tmp_path: Path
) -> None:
    """A listener that knows no TLS is named as such."""
    del authority
    found = _look(f"localhost:{broker().port}", _client_tls(tmp_path))
    assert found["TLS"][0] is Outcome.FAILED
    assert "does not speak TLS" in found["TLS"][1]


def test_no_tls_towards_a_port_with_it(
    broker: Callable[..., FakeBroker], authority: trustme.CA
) -> None:
    """A listener that expects TLS is recognised, and the setting is named."""
    tls = _server_tls(authority.issue_cert("localhost"))
    outcome, sentence = _look(f"localhost:{broker(KAFKA_4, tls=tls).port}")["version"]
    assert outcome is Outcome.FAILED
    assert "speaks TLS: set STREAMSCHED_KAFKA__SECURITY_PROTOCOL" in sentence


# --- versions ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("requests", "outcome", "said"),
    [
        (KAFKA_2_4, Outcome.FAILED, "older than Kafka 2.5: upgrade it"),
        (KAFKA_2_5, Outcome.WARNING, "older than Kafka 2.8"),
        (KAFKA_4, Outcome.OK, "Kafka 2.8 or newer"),
        (None, Outcome.FAILED, "does not answer as Kafka does"),
        ({}, Outcome.FAILED, "older than Kafka 2.5"),
    ],
)
def test_version_is_known_by_what_the_broker_can_do(
    broker: Callable[..., FakeBroker],
    requests: dict[int, int] | None,
    outcome: Outcome,
    said: str,
) -> None:
    """What is too old fails, what is old is told, and what is no Kafka is told apart."""
    found = _look(f"127.0.0.1:{broker(requests).port}")["version"]
    assert found[0] is outcome
    assert said in found[1]


def test_oldest_broker_decides(broker: Callable[..., FakeBroker]) -> None:
    """Of several brokers each is asked: in the middle of an upgrade they differ."""
    servers = ",".join(f"127.0.0.1:{broker(r).port}" for r in (KAFKA_4, KAFKA_2_4))
    assert _look(servers)["version"][0] is Outcome.FAILED
