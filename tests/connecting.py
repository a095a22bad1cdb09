"""With which options a test's clients come to a Kafka, told by its address.

Most tests know a Kafka by its address alone. One that asks for TLS and a password has its options
remembered here by whoever started it.
"""

from collections.abc import Mapping
from typing import Any

from streamsched.settings import Settings

_REMEMBERED: dict[str, Mapping[str, str]] = {}


def remember(options: Mapping[str, str], known_as: str = "") -> str:
    """Use these options, in librdkafka's spelling, at the address in them, which is returned.

    Those of somebody who may not do everything are `known_as` another name instead.
    """
    address = known_as or options["bootstrap.servers"]
    _REMEMBERED[address] = options
    return address


def client_options(kafka: str) -> dict[str, str]:
    """Options of a librdkafka client there."""
    return dict(_REMEMBERED.get(kafka, {"bootstrap.servers": kafka}))


def client_settings(kafka: str, **given: Any) -> Settings:
    """Settings of our own code there; `given` are further ones, or others."""
    options = client_options(kafka)
    address = options.pop("bootstrap.servers")
    return Settings(**{"bootstrap_servers": address, "kafka": options, **given})


def java_properties(kafka: str) -> dict[str, str]:
    """Properties of a client in Java there, whose login, if it asks for one, is by SCRAM."""
    options = client_options(kafka)
    found = {}
    if "security.protocol" in options:
        found["security.protocol"] = options["security.protocol"].upper()
    if "ssl.ca.location" in options:
        found["ssl.truststore.type"] = "PEM"
        found["ssl.truststore.location"] = options["ssl.ca.location"]
    if "sasl.username" in options:
        login = f'username="{options["sasl.username"]}" password="{options["sasl.password"]}"'
        module = "org.apache.kafka.common.security.scram.ScramLoginModule"
        found["sasl.mechanism"] = options["sasl.mechanisms"]
        found["sasl.jaas.config"] = f"{module} required {login};"
    return found


def settings_variables(options: Mapping[str, str]) -> dict[str, str]:
    """Options of a librdkafka client as the environment of our program."""
    found = {
        f"STREAMSCHED_KAFKA__{name.upper().replace('.', '_')}": value
        for name, value in options.items()
        if name != "bootstrap.servers"
    }
    return {"STREAMSCHED_BOOTSTRAP_SERVERS": options["bootstrap.servers"], **found}
