"""The scheduler and the SDK on a Kafka that asks who they are, in each way that they may say it."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta

import pytest

from streamsched import AsyncClient, Client
from streamsched.kafka.broker_security import key_and_chain
from streamsched.kafka.embedded import EmbeddedKafka
from tests.broker.conftest import PLAIN_LOGIN
from tests.broker.installation import Installation, installed

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def running(
    secured: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """A scheduler that comes with a certificate of its own, by both of its clients."""
    assert secured.security is not None
    folder = tmp_path_factory.mktemp("certificate")
    own = str(folder / "own.pem")
    certificate = secured.security.authority.issue_cert("x", common_name="admin")
    (folder / "own.pem").write_bytes(key_and_chain(certificate))
    options = {
        "bootstrap.servers": f"127.0.0.1:{secured.nodes[0].peer_port}",
        "security.protocol": "ssl",
        "ssl.ca.location": str(secured.security.ca_file),
        "ssl.certificate.location": own,
        "ssl.key.location": own,
    }
    with installed(secured.bootstrap_servers, folder, partitions=1, options=options) as it:
        yield it


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"])
def test_sdk_submits_and_reads(
    secured: EmbeddedKafka, running: Installation, mechanism: str
) -> None:
    """Both clients, blocking and for asyncio, with librdkafka's options as they are."""
    login = PLAIN_LOGIN if mechanism == "PLAIN" else {"sasl.mechanisms": mechanism}
    config = {**secured.client_options, **login}
    address = config.pop("bootstrap.servers")
    app_id = running.names.app_id
    tenant = mechanism.lower()

    with Client(address, app_id, config) as client:
        client.set_tenant(tenant, rate="100/s")
        client.submit(tenant, "blocking", b"1", delay=timedelta(0))
        with client.dispatched(tenant, from_beginning=True, timeout=60) as jobs:
            assert next(iter(jobs)).id == "blocking"

    async def asynchronously() -> list[str]:
        async with AsyncClient(address, app_id, config) as client:
            await client.submit(tenant, "asyncio", b"2", delay=timedelta(0))
            found = []
            async with client.dispatched(tenant, from_beginning=True, timeout=60) as jobs:
                async for job in jobs:
                    found.append(job.id)
                    if len(found) == 2:
                        break
            return found

    assert asyncio.run(asynchronously()) == ["blocking", "asyncio"]
