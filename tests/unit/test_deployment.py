"""Dockerfile, compose.yaml and docs/deploy.md fit the code; nothing here needs an engine."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from streamsched.cli.processes import STOP_SECONDS_MAX
from streamsched.kafka import jars
from streamsched.kafka.embedded import EmbeddedKafka, EmbeddedKafkaError
from streamsched.kafka.jars import KAFKA_VERSION
from streamsched.settings import ENV_PREFIX, Settings
from tests.kafka_container import environment
from tests.unit.test_docs import commands

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text("utf-8")
PAGE = (ROOT / "docs" / "deploy.md").read_text("utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SCHEDULERS = ("scheduler-a", "scheduler-b")
PORT = Settings.model_fields["web_port"].default


def is_setting(variable: str) -> bool:
    """Whether the program knows it."""
    return variable.removeprefix(ENV_PREFIX).lower().split("__")[0] in Settings.model_fields


@pytest.mark.parametrize(
    "text",
    [DOCKERFILE, PAGE, str(COMPOSE)],
    ids=["Dockerfile", "deploy.md", "compose.yaml"],
)
def test_settings_that_are_named_exist(text: str) -> None:
    """Each variable with our prefix is a setting."""
    named = set(re.findall(rf"{ENV_PREFIX}[A-Z_]*[A-Z]", text))
    assert named
    assert not {variable for variable in named if not is_setting(variable)}


def test_image_runs_one_scheduler_as_nobody_special() -> None:
    """A number for a user, one volume that is the data folder, the port of the pages, SIGTERM."""
    assert re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE) == ["10001:10001"]
    assert re.findall(r"^VOLUME (\S+)$", DOCKERFILE, re.MULTILINE) == ['["/data"]']
    assert f"{ENV_PREFIX}DATA_DIR=/data" in DOCKERFILE
    assert re.findall(r"^EXPOSE (\d+)$", DOCKERFILE, re.MULTILINE) == [str(PORT)]
    assert "\nSTOPSIGNAL SIGTERM\n" in DOCKERFILE
    assert 'ENTRYPOINT ["streamsched"]\nCMD ["run"]\n' in DOCKERFILE
    assert "run" in commands()
    (words,) = re.findall(
        r'^HEALTHCHECK .*\\\n *CMD \["streamsched", (.*)\]$', DOCKERFILE, re.MULTILINE
    )
    command, option = re.findall(r'"([^"]+)"', words)
    assert option in {name for p in commands()[command].params for name in p.opts}


def test_what_the_image_is_built_from_reaches_the_engine() -> None:
    """Each path that is copied is let through by .dockerignore and is kept in the repository."""
    let_through = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    copied = [
        path
        for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
        for path in line.split()
    ]
    assert len(copied) >= 5
    assert {f"!{path}" for path in copied} == {line for line in let_through if line[0] == "!"}
    for path in copied:
        tracked = subprocess.run(
            ["git", "ls-files", "--", path], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert tracked.stdout, path


def test_schedulers_differ_in_volume_and_port_alone() -> None:
    """Neither can write anywhere else or gain rights, and each has time to end in order."""
    first, second = (dict(SERVICES[name]) for name in SCHEDULERS)
    for name, service in zip(SCHEDULERS, (first, second), strict=True):
        assert service.pop("volumes") == [f"{name}:/data"]
        assert service.pop("ports")[0].endswith(f":{PORT}")
        assert name in COMPOSE["volumes"]
    assert first == second
    assert first["read_only"]
    assert first["cap_drop"] == ["ALL"]
    assert first["security_opt"] == ["no-new-privileges:true"]
    assert int(first["stop_grace_period"].removesuffix("s")) >= STOP_SECONDS_MAX
    assert first["depends_on"] == {"topics": {"condition": "service_completed_successfully"}}


def test_everybody_finds_the_kafka_that_compose_starts() -> None:
    """The address is one that the broker tells, its ports are its listeners', its name is right."""
    kafka = SERVICES["kafka"]
    told = kafka["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    for name in (*SCHEDULERS, "topics", "load"):
        address = SERVICES[name]["environment"][f"{ENV_PREFIX}BOOTSTRAP_SERVERS"]
        assert f"INTERNAL://{address}," in told
        assert address.startswith("kafka:")
    inside = kafka["ports"][0].rpartition(":")[2]
    assert f"HOST://:{inside}," in kafka["environment"]["KAFKA_LISTENERS"]
    assert kafka["healthcheck"]["test"][-1].endswith(f"/{inside}")
    assert SERVICES["topics"]["depends_on"]["kafka"]["condition"] == "service_healthy"


def test_commands_of_compose_exist() -> None:
    """The topics job runs a command of ours, and the load's lines do."""
    assert " ".join(SERVICES["topics"]["command"][:2]) in commands()
    (script,) = SERVICES["load"]["command"]
    found = re.findall(r"streamsched (\w+ \w+)", script)
    assert found
    assert set(found) <= set(commands())
    assert SERVICES["load"]["profiles"] == ["demo"]


def test_kafka_is_the_version_that_the_embedded_one_has() -> None:
    """compose.yaml takes the image of the same version."""
    assert SERVICES["kafka"]["image"] == f"${{KAFKA_IMAGE:-apache/kafka:{KAFKA_VERSION}}}"


def test_broker_settings_become_the_variables_of_the_image() -> None:
    """Dots, underlines and dashes are spelt as the image's own wrapper reads them."""
    given = {"log.dirs": "a", "a-b.c_d": "x"}
    assert environment(given) == {"KAFKA_LOG_DIRS": "a", "KAFKA_A___B_C__D": "x"}


def test_targets_that_the_page_names_exist() -> None:
    """Each `make …` of docs/deploy.md is a target."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", PAGE, re.MULTILINE))
    assert named
    assert named <= targets


def test_without_java_the_embedded_kafka_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In the image, which has none, nothing is downloaded before the sentence."""
    monkeypatch.setattr(jars, "java", lambda: str(tmp_path / "java"))
    with pytest.raises(EmbeddedKafkaError, match="has no Java"):
        EmbeddedKafka(tmp_path / "kafka").start()
