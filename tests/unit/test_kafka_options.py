"""librdkafka's option names for aiokafka."""

import ssl

import pytest

from streamsched.engine.kafka_options import aiokafka_options
from streamsched.settings import Settings, SettingsError


def options(**kafka: str) -> dict[str, object]:
    """Aiokafka's arguments for these options."""
    named = {name.replace("_", "."): value for name, value in kafka.items()}
    return aiokafka_options(Settings(bootstrap_servers="a:1, b:2", kafka=named))


def test_every_bootstrap_server_is_listed() -> None:
    """The list of addresses is split at commas, blanks aside."""
    assert options() == {"bootstrap_servers": ["a:1", "b:2"]}


def test_password_authentication_has_equals() -> None:
    """SASL with user and password is handed on, its mechanism in capitals."""
    made = options(
        security_protocol="sasl_plaintext",
        sasl_mechanisms="scram-sha-256",
        sasl_username="u",
        sasl_password="p",
    )
    assert made["security_protocol"] == "SASL_PLAINTEXT"
    assert made["sasl_mechanism"] == "SCRAM-SHA-256"
    assert (made["sasl_plain_username"], made["sasl_plain_password"]) == ("u", "p")
    assert "ssl_context" not in made


def test_tls_makes_a_context_that_checks_names() -> None:
    """TLS verifies certificate and host name unless told otherwise."""
    context = options(security_protocol="ssl")["ssl_context"]
    assert isinstance(context, ssl.SSLContext)
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


def test_host_names_are_not_checked_on_request() -> None:
    """`ssl.endpoint.identification.algorithm=none` only turns the name check off."""
    made = options(security_protocol="ssl", ssl_endpoint_identification_algorithm="none")
    context = made["ssl_context"]
    assert isinstance(context, ssl.SSLContext)
    assert not context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


def test_tuning_of_librdkafka_is_left_out() -> None:
    """An option of producers has no meaning for a reader and is no error."""
    assert options(linger_ms="5") == {"bootstrap_servers": ["a:1", "b:2"]}


@pytest.mark.parametrize(
    ("kafka", "named"),
    [
        ({"ssl_keystore_location": "k"}, "ssl.keystore.location"),
        ({"sasl_mechanism": "OAUTHBEARER"}, "OAUTHBEARER"),
        ({"metadata_max_age_ms": "soon"}, "metadata.max.age.ms"),
        ({"security_protocol": "ssl", "ssl_ca_location": "/nowhere.pem"}, "cannot be read"),
    ],
)
def test_what_cannot_be_honoured_is_named(kafka: dict[str, str], named: str) -> None:
    """An option that decides how to connect and has no equal stops the start."""
    with pytest.raises(SettingsError, match=named):
        options(**kafka)
