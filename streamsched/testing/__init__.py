"""For tests of your own: the scheduler without a broker."""

from streamsched.testing.driver import Driver, DriverDirectory, Record, headers_of

__all__ = ["Driver", "DriverDirectory", "Record", "headers_of"]
