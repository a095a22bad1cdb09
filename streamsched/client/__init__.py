"""The SDK: submit and cancel jobs, set tenants' rates, read what was dispatched.

`Client` blocks, `AsyncClient` is its twin for asyncio; both build the same records, from the
modules beside them.
"""

from streamsched.client.aio import AsyncClient
from streamsched.client.delivery import DeliveryError, DeliveryErrors, FailedJob
from streamsched.client.dispatched import Dispatched
from streamsched.client.jobs import Job, Submitted
from streamsched.client.sync import Client
from streamsched.client.tenants import ReadError, TenantSettings

__all__ = [
    "AsyncClient",
    "Client",
    "DeliveryError",
    "DeliveryErrors",
    "Dispatched",
    "FailedJob",
    "Job",
    "ReadError",
    "Submitted",
    "TenantSettings",
]
