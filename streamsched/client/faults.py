"""What to say of a broker's refusal: the missing right where it is one, else its own words."""

from confluent_kafka import KafkaError

from streamsched.core.names import TopicNames
from streamsched.kafka.rights import Kind, Operation, Resource, lacks


def writing_fault(error: KafkaError, topic: str) -> str | None:
    """The right that is missing where a record for `topic` is refused; `None` for another fault.

    A producer that may write to no topic at all is refused already when it introduces itself.
    """
    codes = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED)
    if error.code() in codes:
        return lacks([Operation.WRITE], Resource(Kind.TOPIC, topic))
    return None


def reading_fault(error: KafkaError, topic: str, group: str | None, names: TopicNames) -> str:
    """Why `topic` cannot be read by `group`, or by a reader without one."""
    if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
        return lacks([Operation.READ], Resource(Kind.TOPIC, topic))
    if error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
        if group is not None:
            return lacks([Operation.READ], Resource(Kind.GROUP, group))
        readers = Resource(Kind.GROUP, names.reader_group_prefix, prefixed=True)
        return lacks([Operation.DESCRIBE], readers)
    return error.str()
