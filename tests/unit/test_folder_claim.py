"""One process has the folder of all stores, before it has any partition."""

from pathlib import Path

import pytest

from streamsched.store.errors import StoreLocked, StoreUnwritable
from streamsched.store.folder import claim


def test_a_folder_is_claimed_by_one(tmp_path: Path) -> None:
    """A second claim is refused in a sentence with the remedy; a released one can be had again."""
    folder = tmp_path / "data" / "app"
    first = claim(folder)
    with pytest.raises(StoreLocked, match=f"folder {folder} is in use by another process: stop"):
        claim(folder)
    first.close()
    claim(folder).close()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """A file where the folder should be."""
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnwritable, match="cannot be written"):
        claim(tmp_path / "file" / "app")
