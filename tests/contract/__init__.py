"""The contract seen from outside: one body of tests, run on the driver and on a real broker."""
