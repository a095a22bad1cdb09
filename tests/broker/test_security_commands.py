"""What docs/security.md tells users to type works, on a secured Kafka."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from streamsched.kafka.broker_security import key_and_chain
from streamsched.kafka.embedded import EmbeddedKafka
from tests.broker.program import PROGRAM, environment_for

TEXT = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
START = "streamsched broker --secure\n"
"""Tried by tests/broker/test_secured_embedded.py, which takes a free port and three nodes."""
PASSWORD = "of-the-documents"


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def _here(text: str, secured: EmbeddedKafka, folder: Path) -> str:
    """A block with this machine's folders and addresses instead of its example's."""
    assert secured.security is not None
    for example, real in {
        "kafka-1.example:9093": secured.bootstrap_servers,
        "kafka-1.example:9094": f"127.0.0.1:{secured.nodes[0].peer_port}",
        "/run/secrets": str(folder / "secrets"),
        "/etc/streamsched": str(folder / "etc"),
        "data/embedded.kafka/security/": f"{secured.security.client_file.parent}/",
    }.items():
        text = text.replace(example, real)
    return text


@pytest.fixture
def folder(secured: EmbeddedKafka, tmp_path: Path) -> Path:
    """The files that the examples name, and their user with all rights."""
    assert secured.security is not None
    secured.add_user("streamsched", PASSWORD)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "ca.pem").write_bytes(secured.security.ca_file.read_bytes())
    certificate = secured.security.authority.issue_cert("x", common_name="streamsched")
    (tmp_path / "etc" / "client.pem").write_bytes(key_and_chain(certificate))
    (tmp_path / "secrets").mkdir()
    for name in ("kafka-password", "STREAMSCHED_KAFKA__SASL_PASSWORD"):
        (tmp_path / "secrets" / name).write_text(f"{PASSWORD}\n")
    everything = [
        AclBinding(
            *(kind, name, ResourcePatternType.LITERAL),
            *("User:streamsched", "*", AclOperation.ALL, AclPermissionType.ALLOW),
        )
        for kind, name in ((ResourceType.TOPIC, "*"), (ResourceType.BROKER, "kafka-cluster"))
    ]
    # Kept by a name: an admin client that is let go of takes its answers with it.
    admin = AdminClient(secured.client_options)
    for done in admin.create_acls(everything).values():
        done.result(20)
    return tmp_path


def _shell(script: str, folder: Path) -> None:
    own = environment_for("", "documents")
    del own["STREAMSCHED_BOOTSTRAP_SERVERS"]
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env={**own, "PATH": f"{Path(PROGRAM).parent}{os.pathsep}{os.environ['PATH']}"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stderr}"


@pytest.mark.parametrize(
    "block", [block for block in _blocks("sh") if block != START], ids=lambda b: b.splitlines()[-2]
)
def test_commands_run(block: str, secured: EmbeddedKafka, folder: Path) -> None:
    """Each block, in a folder of its own."""
    script = _here(block, secured, folder)
    if "STREAMSCHED_SECRETS_DIR" in block:
        # The secret is one setting of several; the rest is as in the example before.
        before = next(b for b in _blocks("sh") if "SASL_PASSWORD_FILE" in b)
        rest = [line for line in before.splitlines() if "export" in line and "FILE" not in line]
        script = _here("\n".join(rest), secured, folder) + "\n" + script
    _shell(script, folder)


def test_settings_file_is_taken(secured: EmbeddedKafka, folder: Path) -> None:
    """The example of a streamsched.toml, which says the same as that of the environment."""
    [block] = _blocks("toml")
    assert tomllib.loads(block)["kafka"].keys() >= {"sasl.password.file", "ssl.ca.location"}
    (folder / "streamsched.toml").write_text(_here(block, secured, folder))
    _shell("streamsched topics plan", folder)


def test_python_runs(secured: EmbeddedKafka, folder: Path) -> None:
    """The example of the SDK."""
    [block] = _blocks("python")
    _shell("streamsched topics apply", _with_settings(secured, folder))
    script = _here(block, secured, folder).replace(", config=", ", 'documents', config=")
    (folder / "example.py").write_text(script)
    _shell(f"{Path(PROGRAM).parent / 'python'} example.py", folder)


def _with_settings(secured: EmbeddedKafka, folder: Path) -> Path:
    (folder / "streamsched.toml").write_text(_here(_blocks("toml")[0], secured, folder))
    return folder
