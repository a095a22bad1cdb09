"""librdkafka's option names for aiokafka."""

import ssl
from pathlib import Path

import pytest
import trustme
from confluent_kafka.admin import AdminClient

from streamsched.engine.kafka_options import _EQUALS, _TLS, OUR_OWN, aiokafka_options
from streamsched.engine.producer import producer_config
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


@pytest.mark.parametrize("no", ["false", "False", "F", "0"])
def test_certificates_are_not_checked_on_request(no: str) -> None:
    """However librdkafka lets one say so."""
    context = options(security_protocol="ssl", enable_ssl_certificate_verification=no)[
        "ssl_context"
    ]
    assert isinstance(context, ssl.SSLContext)
    assert context.verify_mode is ssl.CERT_NONE


def test_authority_and_certificate_are_taken_from_their_files(tmp_path: Path) -> None:
    """An own authority, as file or as text, and a certificate of the client's with its key."""
    authority = trustme.CA()
    own = authority.issue_cert("client.example")
    files = {name: str(tmp_path / name) for name in ("ca", "certificate", "key")}
    authority.cert_pem.write_to_path(files["ca"])
    own.cert_chain_pems[0].write_to_path(files["certificate"])
    own.private_key_pem.write_to_path(files["key"])
    pair = {"ssl_certificate_location": files["certificate"], "ssl_key_location": files["key"]}
    for trusted in (
        {"ssl_ca_location": files["ca"]},
        {"ssl_ca_pem": authority.cert_pem.bytes().decode()},
    ):
        context = options(security_protocol="ssl", **trusted, **pair)["ssl_context"]
        assert isinstance(context, ssl.SSLContext)
        assert len(context.get_ca_certs()) == 1
    with pytest.raises(SettingsError, match="cannot be used"):
        options(security_protocol="ssl", **{**pair, "ssl_key_location": files["ca"]})


def test_every_option_for_connecting_is_one_of_librdkafka() -> None:
    """What aiokafka has an equal of, and what is refused as ours, librdkafka knows as well."""
    for name in {*_EQUALS, *_TLS, *OUR_OWN} - {"ssl.ca.pem", "isolation.level"}:
        # It says of a wrong value that it is wrong, and of a wrong name that there is none.
        with pytest.raises(Exception, match=r".") as caught:
            AdminClient({name: "\n", "security.protocl": "ssl"})
        assert f'No such configuration property: "{name}"' not in str(caught.value)


def test_what_the_producer_sets_is_refused() -> None:
    """An option that a setting of ours would hide is not taken and lost."""
    assert producer_config(Settings(), 0).keys() - {"bootstrap.servers"} <= OUR_OWN
    for name in sorted(OUR_OWN):
        with pytest.raises(SettingsError, match=f"^Kafka option {name} is set by the scheduler"):
            options(**{name: "1"})


def test_tuning_of_librdkafka_is_left_out() -> None:
    """An option that only tunes has no meaning for the reader and is no error."""
    assert options(compression_type="zstd") == {"bootstrap_servers": ["a:1", "b:2"]}


@pytest.mark.parametrize(
    ("kafka", "named"),
    [
        ({"security_protocol": "ssl", "ssl_keystore_location": "k"}, "ssl.keystore.location"),
        ({"security_protocol": "sasl_ssl", "sasl_mechanism": "OAUTHBEARER"}, "OAUTHBEARER"),
        ({"broker_address_family": "v4"}, "broker.address.family"),
        ({"sasl_username": "u"}, "sasl.username has no meaning where security.protocol is plain"),
        ({"ssl_ca_location": "/x"}, "ssl.ca.location has no meaning where security.protocol is"),
        ({"security_protocol": "sasl_ssl"}, "sasl.mechanism is missing"),
        ({"security_protocol": "sasl_ssl", "sasl_mechanism": "PLAIN"}, "sasl.username is missing"),
        (
            {
                "security_protocol": "sasl_ssl",
                "sasl_mechanism": "PLAIN",
                "sasl_username": "u",
                "sasl_password": "",
            },
            "sasl.password is missing or empty.*STREAMSCHED_KAFKA__SASL_PASSWORD_FILE",
        ),
        ({"security_protocol": "ssl", "ssl_key_location": "/x"}, "belong together"),
        ({"metadata_max_age_ms": "soon"}, "metadata.max.age.ms"),
        ({"security_protocol": "ssl", "ssl_ca_location": "/nowhere.pem"}, "cannot be read as"),
    ],
)
def test_what_cannot_be_honoured_is_named(kafka: dict[str, str], named: str) -> None:
    """An option that decides how to connect and has no equal stops the start."""
    with pytest.raises(SettingsError, match=named):
        options(**kafka)
