"""What makes an embedded Kafka a secured one: certificates, the first user, and who may do what.

<folder>/ca.pem, ca-key.pem     the authority that signs all certificates; made once, then kept
<folder>/nodes.pem              key and certificate of the nodes, new at each start
<folder>/admin.password         of the user who may do everything; made once, then kept
<folder>/streamsched.toml       settings of a client that is this user

Clients come over TLS with a name and a password (SCRAM), nodes among themselves with their
certificate. Nobody but the first user may do anything that no ACL allows. Files with a secret in
them can be read by their owner only.
"""

import json
import os
import secrets
from pathlib import Path
from typing import Final

import trustme
from confluent_kafka.admin import (
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from streamsched.kafka.broker_config import HOST

ADMIN: Final = "admin"
"""The user who may do everything."""
NODE: Final = "streamsched-node"
"""Whom a node takes another one for, by the name in its certificate."""

MECHANISMS: Final = ("SCRAM-SHA-256", "SCRAM-SHA-512")
SCRAM_ITERATIONS: Final = 4_096
"""The least that Kafka takes; enough for a password of this machine's."""
ANSWER_SECONDS_MAX: Final = 60.0
NAMES: Final = (HOST, "localhost")
"""What the nodes' certificate is good for."""

_LOGIN: Final = "org.apache.kafka.common.security.scram.ScramLoginModule required;"


class BrokerSecurity:
    """Certificates and secrets in `folder`, which are made where they are missing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()

    @property
    def ca_file(self) -> Path:
        """The certificate that clients must trust."""
        return self._folder / "ca.pem"

    @property
    def client_file(self) -> Path:
        """The settings of a client, as a `streamsched.toml`."""
        return self._folder / "streamsched.toml"

    @property
    def authority(self) -> trustme.CA:
        """Signs the certificates of nodes, and of clients who shall come with one."""
        return trustme.CA.from_pem(self.ca_file.read_bytes(), self._ca_key_file.read_bytes())

    @property
    def password(self) -> str:
        """That of `ADMIN`."""
        return self._password_file.read_text("utf-8").rstrip("\n")

    @property
    def _ca_key_file(self) -> Path:
        return self._folder / "ca-key.pem"

    @property
    def _nodes_file(self) -> Path:
        return self._folder / "nodes.pem"

    @property
    def _password_file(self) -> Path:
        return self._folder / "admin.password"

    def prepare(self) -> None:
        """Make what is missing, and a new certificate for the nodes; raises `OSError`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if not (self.ca_file.exists() and self._ca_key_file.exists()):
            authority = trustme.CA()
            write_secret(self._ca_key_file, authority.private_key_pem.bytes())
            authority.cert_pem.write_to_path(self.ca_file)
        if not self._password_file.exists():
            write_secret(self._password_file, f"{secrets.token_urlsafe(24)}\n".encode())
        write_secret(
            self._nodes_file, key_and_chain(self.authority.issue_cert(*NAMES, common_name=NODE))
        )

    def write_client_file(self, bootstrap_servers: str) -> None:
        """Write the settings of a client of the cluster at these addresses."""
        options = self.client_options(ADMIN, self.password)
        del options["sasl.password"]
        options["sasl.password.file"] = str(self._password_file)
        # A string of TOML is written as one of JSON.
        lines = [f"{json.dumps(name)} = {json.dumps(value)}" for name, value in options.items()]
        head = f"bootstrap_servers = {json.dumps(bootstrap_servers)}"
        self.client_file.write_text("\n".join([head, "", "[kafka]", *lines, ""]), "utf-8")

    def client_options(self, user: str, password: str) -> dict[str, str]:
        """Options of a librdkafka client that is `user`."""
        return {
            "security.protocol": "sasl_ssl",
            "ssl.ca.location": str(self.ca_file),
            "sasl.mechanisms": MECHANISMS[-1],
            "sasl.username": user,
            "sasl.password": password,
        }

    def node_options(self) -> dict[str, str]:
        """Options of a librdkafka client that comes as a node does: it needs no user to exist."""
        return {
            "security.protocol": "ssl",
            "ssl.ca.location": str(self.ca_file),
            "ssl.certificate.location": str(self._nodes_file),
            "ssl.key.location": str(self._nodes_file),
        }

    def set_password(self, peers: str, user: str, password: str) -> None:
        """Let `user` come with `password`; `peers` are addresses that nodes use.

        The controller knows it then, brokers a moment later. Raises `KafkaException`.
        """
        options: dict[str, str | int | float | bool] = {**self.node_options()}
        # librdkafka would write to standard error what it drops when it ends.
        admin = AdminClient({**options, "bootstrap.servers": peers, "log_level": 0})
        for mechanism in MECHANISMS:
            kind = ScramMechanism[mechanism.replace("-", "_")]
            credential = UserScramCredentialUpsertion(
                user, ScramCredentialInfo(kind, SCRAM_ITERATIONS), password.encode()
            )
            # One request each: in one, the second would be refused as a repetition.
            [done] = admin.alter_user_scram_credentials([credential]).values()
            done.result(ANSWER_SECONDS_MAX)

    def properties(self, port: int, peer_port: int, controller_port: int) -> dict[str, str]:
        """Settings of a node that listens on these ports."""
        clients, peers = f"CLIENTS://{HOST}:{port}", f"NODES://{HOST}:{peer_port}"
        logins = {
            f"listener.name.clients.{mechanism.lower()}.sasl.jaas.config": _LOGIN
            for mechanism in MECHANISMS
        }
        return {
            "listeners": f"{clients},{peers},CONTROLLER://{HOST}:{controller_port}",
            "advertised.listeners": f"{clients},{peers}",
            "listener.security.protocol.map": "CLIENTS:SASL_SSL,NODES:SSL,CONTROLLER:SSL",
            "inter.broker.listener.name": "NODES",
            "sasl.enabled.mechanisms": ",".join(MECHANISMS),
            **logins,
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self._nodes_file),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.ca_file),
            "listener.name.nodes.ssl.client.auth": "required",
            "listener.name.controller.ssl.client.auth": "required",
            "ssl.principal.mapping.rules": "RULE:^CN=([^,]+),.*$/$1/,DEFAULT",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:{ADMIN};User:{NODE}",
        }


def key_and_chain(certificate: trustme.LeafCert) -> bytes:
    """Key and certificates in one PEM file, the key in the only form that Kafka reads (PKCS 8)."""
    key = load_pem_private_key(certificate.private_key_pem.bytes(), None)
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return text + b"".join(blob.bytes() for blob in certificate.cert_chain_pems)


def write_secret(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, from its first byte on."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
