"""Kafka's jars are downloaded once into the user's cache, or it is said why not."""

from pathlib import Path
from typing import Any

import pytest
import requests

from streamsched.kafka import jars


class Central:
    """Stands in for Maven Central: fails as often as it is told, then has two jars."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.asked = 0

    def resolve(self, _coordinates: Any, repository: Path, *_rest: Any) -> list[Path]:
        """Put the jars into `repository`."""
        self.asked += 1
        repository.mkdir(parents=True)
        found = [repository / name for name in ("a.jar", "b.jar")]
        found[0].write_bytes(b"half of it")
        if self.asked <= self.failures:
            raise requests.ConnectionError("no route to host")
        for path in found:
            path.write_bytes(b"jar")
        return found


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An empty cache, and what was said of progress."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return []


def use(monkeypatch: pytest.MonkeyPatch, central: Central) -> Central:
    """Ask `central` instead of the one on the internet."""
    monkeypatch.setattr(jars, "_resolve", central.resolve)
    return central


def test_jars_are_downloaded_once(monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    """The second time they are taken from the cache, without a word."""
    central = use(monkeypatch, Central())
    found = jars.kafka_tools_classpath(said.append)
    assert [Path(path).read_bytes() for path in found.split(":")] == [b"jar", b"jar"]
    assert "downloading Apache Kafka" in said[0]
    said.clear()
    assert jars.kafka_tools_classpath(said.append) == found
    assert (central.asked, said) == (1, [])


def test_a_download_that_fails_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    """It is told, and nothing of the failed one is used."""
    central = use(monkeypatch, Central(failures=2))
    found = jars.kafka_tools_classpath(said.append)
    assert central.asked == 3
    assert Path(found.split(":")[0]).read_bytes() == b"jar"
    assert sum("no route to host), trying again" in line for line in said) == 2


def test_no_network_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    """It names the fault and what to do; the next start begins anew, and works."""
    central = use(monkeypatch, Central(failures=3))
    with pytest.raises(jars.JarError, match=r"no route to host.*STREAMSCHED_BOOTSTRAP_SERVERS"):
        jars.kafka_tools_classpath(said.append)
    assert jars.kafka_tools_classpath(said.append)
    assert central.asked == 4


def test_a_jar_that_has_gone_is_downloaded_again(
    monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    """Somebody has cleaned up in the cache."""
    central = use(monkeypatch, Central())
    Path(jars.kafka_tools_classpath(said.append).split(":")[1]).unlink()
    found = jars.kafka_tools_classpath(said.append)
    assert central.asked == 2
    assert all(Path(path).is_file() for path in found.split(":"))


def test_a_cache_that_cannot_be_used_is_said(
    monkeypatch: pytest.MonkeyPatch, said: list[str], tmp_path: Path
) -> None:
    """A file is where the folder would be."""
    use(monkeypatch, Central())
    (tmp_path / "streamsched").write_text("")
    with pytest.raises(jars.JarError, match="name another one in XDG_CACHE_HOME"):
        jars.kafka_tools_classpath(said.append)


def test_progress_is_said_now_and_then(monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    """How many files and bytes there are so far, at most every two seconds."""
    now = 100.0
    monkeypatch.setattr(jars.time, "monotonic", lambda: now)
    meter = jars._Meter(said.append)
    with meter.file("kafka.pom", 10) as add:
        add(1_000_000)
    now += 2
    with meter.file("other.pom", 10) as add:
        add(1_000_000)
        add(1_000_000)
    meter.jars = 40
    now += 2
    with meter.file("kafka.jar", 10):
        pass
    with meter.file("other.jar", 10) as add:
        add(9_000_000)
    assert said == [
        "downloading Apache Kafka: 1 descriptions read",
        "downloading Apache Kafka: 1 of 40 jars, 12 MB",
    ]
