"""The first look at a cluster, at small servers that answer as brokers of all kinds do."""

import struct
from typing import Any

import pytest

from streamsched.kafka.first_contact import fault_of
from tests.old_broker import api_versions, server

INIT_PRODUCER_ID = 22


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        ({18: (0, 2), INIT_PRODUCER_ID: (0, 1)}, "version 3; this broker has 1"),  # Kafka 2.3
        ({18: (0, 3), INIT_PRODUCER_ID: (0, 2)}, "version 3; this broker has 2"),  # Kafka 2.4
        ({0: (0, 2), 18: (0, 0)}, "version 3; this broker has none"),  # Kafka 0.10
    ],
)
def test_broker_before_2_5_is_refused(versions: dict[int, tuple[int, int]], said: str) -> None:
    """Its version, what is missing and the remedy are named."""
    with server(api_versions(versions)) as address:
        fault = fault_of(address, {})
    assert fault.startswith(f"Kafka at {address} is older than 2.5, and streamsched needs its ")
    assert said in fault
    assert fault.endswith("upgrade the brokers")


@pytest.mark.parametrize("newest", [3, 5, 99])
def test_broker_of_2_5_and_newer_is_good(newest: int) -> None:
    """Nothing is said of a broker that knows what we need."""
    with server(api_versions({INIT_PRODUCER_ID: (0, newest)})) as address:
        assert not fault_of(address, {})


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\0\0",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\0\0\0\4\0\0\0\1",
        struct.pack(">iihi", 10, 1, 0, 1_000_000),
        struct.pack(">iihi", 10, 1, 0, -5),
        api_versions({INIT_PRODUCER_ID: (0, 1)}, number=2),
        api_versions({INIT_PRODUCER_ID: (0, 1)}, error=35),
    ],
    ids=["nothing", "half a length", "http", "short", "too many", "negative", "other", "refused"],
)
def test_what_is_no_broker_is_left_to_the_client(answer: bytes) -> None:
    """Nothing is said of what may be anything, and nothing is raised."""
    with server(answer) as address:
        assert not fault_of(address, {})


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "no-such-host.invalid:1", "127.0.0.1:port", "", "[::1:9092"]
)
def test_who_does_not_answer_is_left_to_the_client(address: str) -> None:
    """A broker that is away may come; what cannot be an address, the client says."""
    assert not fault_of(address, {})


def test_first_address_that_answers_decides() -> None:
    """One that is away is passed over."""
    with server(api_versions({INIT_PRODUCER_ID: (0, 1)})) as old:
        assert "is older than 2.5" in fault_of(f"127.0.0.1:1, PLAINTEXT://{old}", {})


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"security.protocol": "SSL"}, "to plaintext"),
        ({"security.protocol": "sasl_ssl"}, "to sasl_plaintext"),
    ],
)
def test_broker_without_tls_is_told(options: dict[str, Any], remedy: str) -> None:
    """A client of TLS at a listener without it: both sides of the difference are named."""
    with server(api_versions({INIT_PRODUCER_ID: (0, 5)})) as address:
        fault = fault_of(address, options)
    assert fault.startswith(f"Kafka at {address} does not speak TLS, and security.protocol is ")
    assert fault.endswith(remedy)
