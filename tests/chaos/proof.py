"""A fault proves that it happened, or it counts as none."""


class NotHappened(AssertionError):
    """A fault did not have the effect without which it proves nothing."""


def demand(holds: object, text: str) -> None:
    """Raise `NotHappened` with the text unless the condition holds."""
    if not holds:
        raise NotHappened(text)
