"""Settings of a process: where they come from, and that secrets among them stay secret."""

from pathlib import Path

import pytest

from streamsched.cli.processes import settings_environment
from streamsched.settings import Settings, SettingsError, load_settings

PASSWORD = "tr0ub4dor&3"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test in a folder of its own, where streamsched.toml would be looked for."""
    monkeypatch.chdir(tmp_path)


def test_option_is_read_from_the_file_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the environment or by streamsched.toml; the end of the last line is none of the value."""
    (tmp_path / "password").write_text(f" {PASSWORD} \r\n")
    monkeypatch.setenv("STREAMSCHED_KAFKA__SASL_PASSWORD_FILE", str(tmp_path / "password"))
    assert load_settings().kafka == {"sasl.password": f" {PASSWORD} "}
    monkeypatch.delenv("STREAMSCHED_KAFKA__SASL_PASSWORD_FILE")
    (tmp_path / "streamsched.toml").write_text('[kafka]\n"ssl.key.password.file" = "password"\n')
    assert load_settings().client_config()["ssl.key.password"] == f" {PASSWORD} "


def test_files_of_oauthbearer_are_left_to_librdkafka() -> None:
    """Its own options that end so take the name of the file."""
    given = {"sasl.oauthbearer.assertion.file": "/nowhere"}
    assert Settings(kafka=given).kafka == given


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        (
            {"SASL_PASSWORD_FILE": "nowhere"},
            (
                "setting kafka (STREAMSCHED_KAFKA): sasl.password cannot be read from nowhere "
                "(No such file or directory)"
            ),
        ),
        ({"SASL_PASSWORD_FILE": "."}, "cannot be read from . (Is a directory)"),
        ({"SASL_PASSWORD_FILE": "binary"}, "cannot be read from binary (it is no UTF-8)"),
        (
            {"SASL_PASSWORD_FILE": "/dev/null", "SASL_PASSWORD": PASSWORD},
            "sasl.password is given twice: leave one of them out",
        ),
        ({"BOOTSTRAP_SERVERS": "x:1"}, "bootstrap.servers is not set here, but as bootstrap_serv"),
    ],
)
def test_option_that_cannot_be_had_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str], said: str
) -> None:
    """The option, the file and the fault are named, and no value."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name, value in variables.items():
        monkeypatch.setenv(f"STREAMSCHED_KAFKA__{name}", value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert said in str(caught.value)
    assert PASSWORD not in f"{caught.value} {caught.value.__cause__}"


def test_folder_of_secrets_gives_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of its files is a setting; the environment goes over it, and it over the file."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "STREAMSCHED_KAFKA__SASL_PASSWORD").write_text(f"{PASSWORD}\n")
    (folder / "streamsched_app_id").write_text("from-folder")
    (folder / "of_another_program").write_text("x")
    (tmp_path / "streamsched.toml").write_text(
        'secrets_dir = "secrets"\napp_id = "from-toml"\n[kafka]\n"client.id" = "here"\n'
    )
    found = load_settings()
    assert found.kafka == {"client.id": "here", "sasl.password": PASSWORD}
    assert found.app_id == "from-folder"
    monkeypatch.setenv("STREAMSCHED_APP_ID", "from-environment")
    assert load_settings().app_id == "from-environment"
    monkeypatch.setenv("STREAMSCHED_SECRETS_DIR", str(tmp_path))
    assert load_settings().kafka == {"client.id": "here"}


def test_folder_of_secrets_that_is_wrong_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is not there, and a file in it that is no setting of ours."""
    monkeypatch.setenv("STREAMSCHED_SECRETS_DIR", "nowhere")
    with pytest.raises(SettingsError, match=r"^setting secrets_dir: there is no folder nowhere$"):
        load_settings()
    (tmp_path / "STREAMSCHED_KAFKA_SASL_PASSWORD").write_text(PASSWORD)
    monkeypatch.setenv("STREAMSCHED_SECRETS_DIR", str(tmp_path))
    with pytest.raises(SettingsError, match=r"^file .*/STREAMSCHED_KAFKA_SASL_PASSWORD is no sett"):
        load_settings()


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when settings are printed, not when one is refused, not to a child's command line."""
    monkeypatch.setenv("STREAMSCHED_KAFKA__SASL_PASSWORD", PASSWORD)
    found = load_settings()
    assert PASSWORD not in f"{found!r} {found}"
    assert PASSWORD not in str(settings_environment(found))
    with pytest.raises(SettingsError, match="setting kafka") as caught:
        load_settings(kafka={"sasl.password": [PASSWORD]})
    assert PASSWORD not in f"{caught.value} {caught.value.__cause__}"


def test_children_get_the_settings_that_are_there() -> None:
    """What is not set is not handed on as a word."""
    assert "STREAMSCHED_SECRETS_DIR" not in settings_environment(Settings())
    given = settings_environment(Settings(secrets_dir=Path("/run")))
    assert given["STREAMSCHED_SECRETS_DIR"] == "/run"


def test_an_empty_address_is_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting is named with its variable, as in a deployment whose template was not filled."""
    monkeypatch.setenv("STREAMSCHED_BOOTSTRAP_SERVERS", " ")
    with pytest.raises(SettingsError, match=r"^setting bootstrap_servers \(STREAMSCHED_BOOT"):
        load_settings()
