"""What every test tier shares: the tiers as markers, the seed, the broker, application ids."""

import random
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from confluent_kafka.admin import AdminClient

from tests.connecting import client_options, remember
from tests.shared_broker import SHARED, NoContainerError, SharedBroker, options_of_shared_broker

TIERS = frozenset({"unit", "property", "sim", "broker", "chaos", "container"})
"""Folders under tests/; each is a marker of the same name."""

SHARING_TIERS = frozenset({"broker", "chaos"})
OF_NO_SHARED_KAFKA = (
    "has a Kafka of its own, to kill, freeze or configure, or none: the same with every --kafka"
)
"""Why a test is skipped which does not ask for the Kafka that the run was given."""

BROKER = pytest.StashKey[SharedBroker]()
SEED = pytest.StashKey[int]()
BROKER_SOCKET = pytest.StashKey[str]()

# Two shared cores stall any single example now and then, so examples have no deadline.
hypothesis.settings.register_profile("streamsched", deadline=None, print_blob=True)
hypothesis.settings.load_profile("streamsched")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of this test suite."""
    group = parser.getgroup("streamsched")
    group.addoption(
        "--kafka",
        default="embedded",
        metavar="embedded|secure|container|HOST:PORT",
        help="the Kafka that tests run on: one of their own (default), one with TLS and passwords, "
        "one in a container, or a running one",
    )
    group.addoption(
        "--rebalances",
        type=int,
        default=15,
        help="how often the test of rebalances has its group rebalance",
    )
    group.addoption("--seed", type=int, help="seed of all random choices (default: a new one)")


def pytest_configure(config: pytest.Config) -> None:
    """Agree on seed and broker with the controlling process, or be the controlling process."""
    from_controller: dict[str, Any] | None = getattr(config, "workerinput", None)
    if from_controller is not None:
        config.stash[SEED] = from_controller["streamsched_seed"]
        config.stash[BROKER_SOCKET] = from_controller["streamsched_broker"]
        return
    seed = config.getoption("--seed")
    config.stash[SEED] = random.SystemRandom().getrandbits(32) if seed is None else seed
    config.stash[BROKER] = SharedBroker(config.getoption("--kafka"))
    config.stash[BROKER_SOCKET] = config.stash[BROKER].path


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Hand seed and broker to a worker of pytest-xdist."""
    node.workerinput["streamsched_seed"] = node.config.stash[SEED]
    node.workerinput["streamsched_broker"] = node.config.stash[BROKER_SOCKET]


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the run's broker, also after Ctrl-C."""
    if (broker := config.stash.get(BROKER, None)) is not None:
        broker.close()


def pytest_report_header(config: pytest.Config) -> str:
    """Say how to repeat this run."""
    return f"seed: {config.stash[SEED]} (repeat with --seed {config.stash[SEED]})"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark each test with its tier, the folder it lies in; skip what is not about this Kafka."""
    here = Path(__file__).parent
    is_default = config.getoption("--kafka") == "embedded"
    for item in items:
        tier = item.path.relative_to(here).parts[0]
        if tier in TIERS:
            item.add_marker(tier)
        asks = "kafka" in getattr(item, "fixturenames", ())
        if tier in SHARING_TIERS and not asks and not is_default:
            item.add_marker(pytest.mark.skip(OF_NO_SHARED_KAFKA))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the seed into the report of every test that fails."""
    report = yield
    del call
    if report.failed:
        report.sections.append(("seed", f"repeat with --seed {item.config.stash[SEED]}"))
    return report


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of this run, printed in its header and with each failure."""
    return request.config.stash[SEED]


@pytest.fixture
def rng(request: pytest.FixtureRequest, seed: int) -> random.Random:
    """Random numbers that depend on the run's seed and the test, not on order or workers."""
    return random.Random(f"{seed}:{request.node.nodeid}")


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest) -> str:
    """Bootstrap address of a real Kafka that all tests of the run share."""
    chosen = request.config.getoption("--kafka")
    if chosen not in SHARED:
        return str(chosen)
    try:
        return remember(options_of_shared_broker(request.config.stash[BROKER_SOCKET]))
    except NoContainerError as error:
        pytest.skip(str(error))


@pytest.fixture
def app_id(request: pytest.FixtureRequest) -> Iterator[str]:
    """An application id of this test alone; its topics on the shared Kafka go when it ends."""
    own = f"test-{uuid.uuid4().hex[:12]}"
    address = request.getfixturevalue("kafka") if "kafka" in request.fixturenames else None
    yield own
    if address is None:
        return
    admin = AdminClient(client_options(address))
    topics = [name for name in admin.list_topics(timeout=10).topics if name.startswith(own)]
    if topics:
        for deleted in admin.delete_topics(topics, operation_timeout=10).values():
            deleted.exception(10)
