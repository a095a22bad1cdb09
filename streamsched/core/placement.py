"""Which ingress partition owns a tenant, and which egress partition a job goes to."""

_M = 0x5BD1E995
_SEED = 0x9747B28C
_MASK = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """Kafka's hash of a record key, as a non-negative integer.

    Source: `org.apache.kafka.common.utils.Utils.murmur2`, with the sign bit cleared as Kafka's
    default partitioner does.
    """
    length = len(data)
    h = (_SEED ^ length) & _MASK
    whole = length & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * _M & _MASK
        k = (k ^ k >> 24) * _M & _MASK
        h = (h * _M & _MASK) ^ k
    tail = data[whole:]
    if tail:
        h = (h ^ int.from_bytes(tail, "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    return (h ^ h >> 15) & 0x7FFFFFFF


def partition_for(tenant: bytes, partitions: int) -> int:
    """The ingress partition that owns `tenant`: Kafka's default for a record keyed by it."""
    return murmur2(tenant) % partitions
