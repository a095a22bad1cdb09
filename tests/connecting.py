"""With which options a test's clients come to a Kafka, told by its address.

Most tests know a Kafka by its address alone. One that asks for TLS and a password has its options
remembered here by whoever started it.
"""

from collections.abc import Mapping

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


def settings_variables(options: Mapping[str, str]) -> dict[str, str]:
    """Options of a librdkafka client as the environment of our program."""
    found = {
        f"STREAMSCHED_KAFKA__{name.upper().replace('.', '_')}": value
        for name, value in options.items()
        if name != "bootstrap.servers"
    }
    return {"STREAMSCHED_BOOTSTRAP_SERVERS": options["bootstrap.servers"], **found}
