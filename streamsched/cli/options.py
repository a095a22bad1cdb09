"""Options for settings: the same on every command, accepted before and after its name."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from streamsched.settings import Settings

_PANEL: Final = "Settings, also in STREAMSCHED_… and streamsched.toml"

SETTINGS_OPTIONS: Final[dict[str, Any]] = {
    "bootstrap_servers": Annotated[
        str | None,
        typer.Option(
            "--bootstrap-servers",
            metavar="HOST:PORT,…",
            help="Kafka's address.",
            rich_help_panel=_PANEL,
        ),
    ],
    "app_id": Annotated[
        str | None,
        typer.Option(
            "--app-id",
            metavar="NAME",
            help="Which installation: its topics begin with this name.",
            rich_help_panel=_PANEL,
        ),
    ],
    "data_dir": Annotated[
        Path | None,
        typer.Option(
            "--data-dir", metavar="DIR", help="Folder for local state.", rich_help_panel=_PANEL
        ),
    ],
    "web_host": Annotated[
        str | None,
        typer.Option(
            "--web-host",
            metavar="HOST",
            help="Address of the scheduler's pages.",
            rich_help_panel=_PANEL,
        ),
    ],
    "web_port": Annotated[
        int | None,
        typer.Option(
            "--web-port",
            metavar="PORT",
            help="Port of the scheduler's pages; 0 takes a free one.",
            rich_help_panel=_PANEL,
        ),
    ],
    "log_level": Annotated[
        str | None,
        typer.Option(
            "--log-level",
            metavar="LEVEL",
            help="debug, info, warning or error.",
            rich_help_panel=_PANEL,
        ),
    ],
    "log_format": Annotated[
        str | None,
        typer.Option(
            "--log-format",
            metavar="FORMAT",
            help="text, json, or auto: text on a terminal.",
            rich_help_panel=_PANEL,
        ),
    ],
}
"""Settings that have an option, with the option."""

TOPIC_OPTIONS: Final[dict[str, Any]] = {
    "replication_factor": Annotated[
        int | None,
        typer.Option(
            "--replication-factor",
            metavar="COUNT",
            help="Copies of each topic that is created; -1 is the broker's default.",
            rich_help_panel=_PANEL,
        ),
    ],
    "min_insync_replicas": Annotated[
        int | None,
        typer.Option(
            "--min-insync-replicas",
            metavar="COUNT",
            help="Copies that must have a record before it counts; -1 is the broker's default.",
            rich_help_panel=_PANEL,
        ),
    ],
}
"""Those that only matter where topics are made; after the command's name only."""

GIVEN: Final = "settings"
"""Key in the context's `meta` of the settings given before the command's name."""

_CONTEXT: Final = inspect.Parameter(
    "ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context
)


def option_parameters(options: Mapping[str, Any]) -> list[inspect.Parameter]:
    """The options of settings as parameters of a function."""
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
        for name, option in options.items()
    ]


def with_settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give `command` the options of settings; it gets the settings themselves, as `settings`.

    What stands after the command's name wins over what stands before it.
    """
    return _with_options(command, SETTINGS_OPTIONS)


def with_topic_settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """As `with_settings`, for a command that looks at how topics are made."""
    return _with_options(command, {**SETTINGS_OPTIONS, **TOPIC_OPTIONS})


def _with_options(command: Callable[..., Any], options: Mapping[str, Any]) -> Callable[..., Any]:
    own = [p for p in inspect.signature(command).parameters.values() if p.name != "settings"]
    keyword_only = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]

    def run(ctx: typer.Context, **given: Any) -> Any:
        overrides = dict(ctx.meta.get(GIVEN, {}))
        for name in options:
            value = given.pop(name)
            if value is not None:
                overrides[name] = value
        return command(settings=_load(overrides), **given)

    _describe(run, command, [_CONTEXT, *keyword_only, *option_parameters(options)])
    return run


def with_settings_options(callback: Callable[..., Any]) -> Callable[..., Any]:
    """Let the callback of the whole program take the options of settings, for its commands."""
    own = inspect.signature(callback).parameters.values()
    keyword_only = [p for p in own if p.name != "ctx"]

    def run(ctx: typer.Context, **given: Any) -> Any:
        ctx.meta[GIVEN] = {
            name: value for name in SETTINGS_OPTIONS if (value := given.pop(name)) is not None
        }
        return callback(ctx, **given)

    _describe(run, callback, [_CONTEXT, *keyword_only, *option_parameters(SETTINGS_OPTIONS)])
    return run


def _describe(
    run: Callable[..., Any], described: Callable[..., Any], parameters: list[inspect.Parameter]
) -> None:
    """Give `run` the name and text of `described`, and the parameters that typer shall read."""
    run.__name__ = described.__name__
    run.__module__ = described.__module__
    run.__doc__ = described.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}


def _load(overrides: dict[str, Any]) -> "Settings":
    from streamsched.settings import load_settings  # noqa: PLC0415 - pydantic is heavy

    return load_settings(**overrides)
