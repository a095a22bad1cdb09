"""The scheduler without any I/O library: codecs, limiter, due order, cycle.

Everything here takes `now` as an argument and does no I/O but reads of the store it was given.
"""
