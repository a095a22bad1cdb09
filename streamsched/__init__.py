"""streamsched: a Kafka-native scheduler for many tenants."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamsched.client import AsyncClient, Client, Job

__all__ = ["AsyncClient", "Client", "Job"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Load the SDK when it is first asked for: the package itself stays light to import."""
    if name in __all__:
        from streamsched import client  # noqa: PLC0415

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
