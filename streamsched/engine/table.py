"""The table `jobs` as Faust sees it: a name and a changelog, and no data.

It is there for the assignor, which places each partition of the changelog, active and standby,
together with the ingress partition of the same number. The state itself is read and written by
the owner of the partitions, in the transactions that Faust knows nothing of.
"""

from typing import Final, NoReturn

import faust

TABLE_NAME: Final = "jobs"


class JobsTable(faust.Table):  # type: ignore[type-arg]
    """A table that refuses to be used through Faust: a write would miss the transaction."""

    def _refuse(self) -> NoReturn:
        raise TypeError("the jobs table is written by the partition's transaction alone")

    def __getitem__(self, key: object) -> NoReturn:
        self._refuse()

    def __setitem__(self, key: object, value: object) -> NoReturn:
        self._refuse()

    def __delitem__(self, key: object) -> NoReturn:
        self._refuse()
