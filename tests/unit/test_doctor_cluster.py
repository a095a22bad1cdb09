"""What the doctor makes of a cluster's answers that no shared broker gives."""

from types import SimpleNamespace

import pytest

from streamsched.doctor.checks import CHECKS
from streamsched.doctor.checkup import Outcome, Subject
from streamsched.doctor.cluster import check_brokers, told
from streamsched.kafka.broker_node import free_port
from streamsched.settings import Settings, SettingsError, load_settings


def test_every_need_is_a_check_before() -> None:
    """What a check hangs on exists and comes first, or it would never be skipped."""
    known: set[str] = set()
    for check in CHECKS:
        assert set(check.needs) <= known, check.name
        known.add(check.name)


def test_advertised_address_that_cannot_be_reached() -> None:
    """A broker that sends clients where nobody listens is named with the setting of the broker."""
    port = free_port()
    broker = SimpleNamespace(id=7, host="127.0.0.1", port=port)
    subject = Subject(Settings())
    subject.cluster = SimpleNamespace(brokers={7: broker})
    found = check_brokers(subject)
    assert found.outcome is Outcome.FAILED
    assert f"broker 7 sends clients to 127.0.0.1:{port}" in found.sentence
    assert "advertised.listeners" in found.sentence


def test_many_are_counted() -> None:
    """Of thousands a few are named."""
    assert told(["a", "b"]) == ["a", "b"]
    assert told([str(n) for n in range(9)])[-2:] == ["4", "and 4 more"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"replication_factor": 0}, "are 1 or more, or -1"),
        ({"min_insync_replicas": 0}, "are 1 or more, or -1"),
        ({"replication_factor": 2, "min_insync_replicas": 3}, "min_insync_replicas 3 is more than"),
    ],
)
def test_copies_that_cannot_be_are_one_sentence(given: dict[str, int], said: str) -> None:
    """Numbers of copies with which nothing could be written are refused before Kafka is asked."""
    with pytest.raises(SettingsError) as caught:
        load_settings(**given)
    assert said in str(caught.value)
    assert not str(caught.value).startswith("setting ")
