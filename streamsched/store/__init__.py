"""Stores of one partition: in memory for tests and drivers, on RocksDB for production.

Both pass one conformance suite, so what was tested on the first holds on the second.
"""
