"""Settings of a process, and where they come from; what is named first wins.

command line
environment         STREAMSCHED_…
folder of secrets   STREAMSCHED_SECRETS_DIR: a file each, named as the variable would be
streamsched.toml    in the folder that the process was started in
defaults

An unknown setting is an error, wherever it stands.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, StringConstraints, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from streamsched.core.names import TopicNames

ENV_PREFIX = "STREAMSCHED_"
SETTINGS_FILE = Path("streamsched.toml")
FROM_FILE = ".file"
"""The end of a Kafka option's name that says that its value lies in the file that is named."""
NO_FILE_PREFIX = "sasl.oauthbearer."
"""Options of librdkafka's own that end so, and take the name of the file themselves."""


class SettingsError(Exception):
    """A setting is unknown or has an impossible value; the text is one sentence for the user."""


class Settings(BaseSettings):
    """What every command needs to know.

    `kafka` holds client options in librdkafka's spelling (`security.protocol`, …). In the
    environment a dot is written as an underscore: `STREAMSCHED_KAFKA__SECURITY_PROTOCOL`. An
    option with `.file` (`_FILE`) behind its name is read from that file, when settings are.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        toml_file=SETTINGS_FILE,
        # What was refused may be a password.
        hide_input_in_errors=True,
    )

    bootstrap_servers: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)] = (
        "localhost:9092"
    )
    app_id: Annotated[
        str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$", min_length=1, max_length=100)
    ] = "streamsched"
    data_dir: Path = Path("data")
    web_host: str = "127.0.0.1"
    web_port: Annotated[int, Field(ge=0, le=65535)] = 6066
    kafka: dict[str, str] = Field(default_factory=dict, repr=False)
    secrets_dir: Path | None = None
    egress_topics_max: Annotated[int, Field(ge=1)] = 2_000
    replication_factor: Annotated[int, Field(ge=-1, le=32_767)] = -1
    min_insync_replicas: Annotated[int, Field(ge=-1, le=32_767)] = -1
    tenant_ingress: bool = False
    standby_replicas: Annotated[int, Field(ge=0)] = 1
    group_instance_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{0,200}$")] = ""
    session_timeout_ms: Annotated[int, Field(ge=1_000, le=1_800_000)] = 6_000
    log_format: Annotated[str, StringConstraints(pattern="^(auto|json|text)$")] = "auto"
    log_level: Annotated[str, StringConstraints(pattern="^(debug|info|warning|error)$")] = "info"

    @model_validator(mode="after")
    def _copies_are_possible(self) -> Self:
        copies, in_sync = self.replication_factor, self.min_insync_replicas
        if 0 in (copies, in_sync):
            raise ValueError(
                "replication_factor and min_insync_replicas are 1 or more, or -1 for the broker's "
                "default"
            )
        if 0 < copies < in_sync:
            raise ValueError(
                f"min_insync_replicas {in_sync} is more than replication_factor {copies}, so no "
                "record could be written: lower it, or raise the other"
            )
        return self

    @property
    def names(self) -> TopicNames:
        """Topic names of this installation."""
        return TopicNames(self.app_id, self.tenant_ingress)

    def client_config(self, **extra: object) -> dict[str, Any]:
        """Options for a librdkafka client: address, the user's options, then `extra`."""
        return {"bootstrap.servers": self.bootstrap_servers, **self.kafka, **extra}

    @field_validator("kafka")
    @classmethod
    def _with_files_read(cls, given: dict[str, str]) -> dict[str, str]:
        options: dict[str, str] = {}
        for spelt, value in given.items():
            name = spelt.replace("_", ".")
            is_file = name.endswith(FROM_FILE) and not name.startswith(NO_FILE_PREFIX)
            option = name.removesuffix(FROM_FILE) if is_file else name
            if option in {"bootstrap.servers", "metadata.broker.list"}:
                raise ValueError(f"{option} is not set here, but as bootstrap_servers")
            if option in options:
                raise ValueError(f"{option} is given twice: leave one of them out")
            options[option] = _content(option, Path(value)) if is_file else value
        return options

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order of precedence, first wins."""
        del dotenv_settings
        toml = TomlConfigSettingsSource(settings_cls)
        folders = (source().get("secrets_dir") for source in (init_settings, env_settings, toml))
        folder = next(filter(None, folders), None)
        if folder is None:
            return init_settings, env_settings, toml
        if not Path(folder).is_dir():
            raise SettingsError(f"setting secrets_dir: there is no folder {folder}")
        for file in sorted(Path(folder).iterdir()):
            _refuse_unknown(file.name.upper(), f"file {file}")
        secrets = NestedSecretsSettingsSource(file_secret_settings, secrets_dir=folder)
        return init_settings, env_settings, secrets, toml


def load_settings(**overrides: Any) -> Settings:
    """Read the settings; `overrides` are the command line's, `None` meaning "not given".

    Raises `SettingsError` with one sentence that names the setting.
    """
    for variable in sorted(os.environ):
        _refuse_unknown(variable, f"environment variable {variable}")
    try:
        return Settings(**{k: v for k, v in overrides.items() if v is not None})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise SettingsError(
                f"{where} (in {SETTINGS_FILE}) is no setting of streamsched; known ones: "
                f"{', '.join(sorted(Settings.model_fields))}"
            ) from error
        fault = first["msg"].removeprefix("Value error, ")
        # What two settings have to do with each other names both itself.
        if where:
            variable = f"{ENV_PREFIX}{'__'.join(map(str, first['loc'])).upper()}"
            fault = f"setting {where} ({variable}): {fault}"
        raise SettingsError(fault) from error
    except ValueError as error:
        raise SettingsError(f"{SETTINGS_FILE}: {error}") from error


def _refuse_unknown(name: str, where: str) -> None:
    """Raise `SettingsError` where `name` is meant for us and is none of ours."""
    known = sorted(f"{ENV_PREFIX}{field.upper()}" for field in Settings.model_fields)
    if name.startswith(ENV_PREFIX) and name.split("__", 1)[0] not in known:
        raise SettingsError(f"{where} is no setting of streamsched; known ones: {', '.join(known)}")


def _content(option: str, file: Path) -> str:
    try:
        # An editor ends the last line, and no password ends with that.
        return file.read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        fault = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise ValueError(f"{option} cannot be read from {file} ({fault})") from error
