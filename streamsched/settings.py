"""Settings of a process: command line, then environment, then `streamsched.toml`, then defaults.

An unknown setting is an error, in the file and in the environment alike.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from streamsched.core.names import TopicNames

ENV_PREFIX = "STREAMSCHED_"
SETTINGS_FILE = Path("streamsched.toml")


class SettingsError(Exception):
    """A setting is unknown or has an impossible value; the text is one sentence for the user."""


class Settings(BaseSettings):
    """What every command needs to know.

    `kafka` holds client options in librdkafka's spelling (`security.protocol`, …). In the
    environment a dot is written as an underscore: `STREAMSCHED_KAFKA__SECURITY_PROTOCOL`.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        toml_file=SETTINGS_FILE,
    )

    bootstrap_servers: str = "localhost:9092"
    app_id: Annotated[
        str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$", min_length=1, max_length=100)
    ] = "streamsched"
    data_dir: Path = Path("data")
    web_host: str = "127.0.0.1"
    web_port: Annotated[int, Field(ge=0, le=65535)] = 6066
    kafka: dict[str, str] = Field(default_factory=dict)
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
        user = {k.replace("_", "."): v for k, v in self.kafka.items()}
        return {"bootstrap.servers": self.bootstrap_servers, **user, **extra}

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
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load_settings(**overrides: Any) -> Settings:
    """Read the settings; `overrides` are the command line's, `None` meaning "not given".

    Raises `SettingsError` with one sentence that names the setting.
    """
    known = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields}
    for variable in sorted(os.environ):
        if not variable.startswith(ENV_PREFIX):
            continue
        if variable.split("__", 1)[0] not in known:
            raise SettingsError(
                f"environment variable {variable} is no setting of streamsched; "
                f"known ones: {', '.join(sorted(known))}"
            )
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
        raise SettingsError(f"setting {where}: {fault}" if where else fault) from error
    except ValueError as error:
        raise SettingsError(f"{SETTINGS_FILE}: {error}") from error
