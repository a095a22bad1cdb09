"""Where librdkafka's own log lines go: into ours, as far as they tell an operator something."""

import logging
from typing import Final

LIBRDKAFKA_LOG: Final = logging.getLogger("librdkafka")
"""Given to every confluent client as `logger`; without one it writes to standard error itself.

Only errors: what it warns of (a coordinator that moves, a connection that closes) it retries, and
what comes of it the engine tells in its own words.
"""
LIBRDKAFKA_LOG.setLevel(logging.ERROR)
