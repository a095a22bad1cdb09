"""How RocksDB is tuned, and the memory that all stores of a process share.

Options are handed over for every column family at every opening: RocksDB keeps neither cache
nor filters from one opening to the next, and falls back to defaults for families left out.
"""

import functools
from typing import Final

from rocksdict import (
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    MemtableFactory,
    Options,
    ReadOptions,
    WriteBufferManager,
)

from streamsched.core.store import FAMILIES, JOBS

_KIB: Final = 1024
_MIB: Final = 1024 * _KIB

CACHE_BYTES: Final = 128 * _MIB
"""Blocks, indexes, filters and write buffers of all stores of a process together."""

WRITE_BUFFERS_BYTES: Final = 64 * _MIB
"""The part of `CACHE_BYTES` that rows not yet in files may take, over all stores."""

WRITE_BUFFER_BYTES: Final = 16 * _MIB
"""One buffer of one family; there are at most two, one filling and one being written out."""

WAL_BYTES_MAX: Final = 64 * _MIB
"""Beyond it families are written to files, so that opening never replays more than this."""

BLOOM_BITS_PER_KEY: Final = 10
"""About one false positive in a hundred: one useless block read for a hundred new job ids."""

MEMTABLE_BLOOM_RATIO: Final = 0.1
JOBS_BLOCK_BYTES: Final = 4 * _KIB
SCAN_BLOCK_BYTES: Final = 16 * _KIB

LOAD_BUFFERS_WAITING_MAX: Final = 2
"""While a store is loaded: full buffers of one family that wait to be written out.

Whoever loads waits for them. RocksDB would too, a few buffers later, and with the interpreter's
lock in its hands.
"""

LOAD_FILES_BEFORE_COMPACTION: Final = 12
"""While a store is loaded: files of one family that overlap before any of them are merged.

Below the 20 at which RocksDB slows writers down, since a slow writer holds the interpreter's lock.
"""

_TOMBSTONES_WINDOW: Final = 4_096
_TOMBSTONES_TRIGGER: Final = 2_048
SCAN_READAHEAD_BYTES: Final = 2 * _MIB
_LOG_BYTES_MAX: Final = _MIB
_LOG_FILES: Final = 2
_BACKGROUND_JOBS: Final = 2


@functools.cache
def process_cache() -> Cache:
    """The block cache that all stores of this process share."""
    return Cache(CACHE_BYTES)


@functools.cache
def process_write_buffers() -> WriteBufferManager:
    """The bound on write buffers of all stores of this process.

    Their memory is charged to the cache. It does not stall writers: reaching the bound starts
    a write-out, and a stall would hold the interpreter's lock.
    """
    return WriteBufferManager.new_write_buffer_manager_with_cache(
        WRITE_BUFFERS_BYTES, False, process_cache()
    )


def database_options(cache: Cache, *, loading: bool = False) -> Options:
    """Options of the database itself; its default family stays empty."""
    options = _family_options(cache, point_lookups=False, loading=loading)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    options.set_write_buffer_manager(process_write_buffers())
    options.set_max_total_wal_size(WAL_BYTES_MAX)
    options.set_max_background_jobs(_BACKGROUND_JOBS)
    options.set_max_log_file_size(_LOG_BYTES_MAX)
    options.set_keep_log_file_num(_LOG_FILES)
    options.set_stats_dump_period_sec(0)
    return options


def column_families(cache: Cache, *, loading: bool = False) -> dict[str, Options]:
    """Options of every family, RocksDB's own default one included.

    `loading` is for a store that is filled from nothing and not read meanwhile.
    """
    families = {
        family: _family_options(cache, point_lookups=family == JOBS, loading=loading)
        for family in FAMILIES
    }
    families["default"] = _family_options(cache, point_lookups=False, loading=loading)
    return families


def scan_options() -> ReadOptions:
    """How a whole family is read once: many blocks ahead, and none of them into the cache."""
    options = ReadOptions()
    options.set_readahead_size(SCAN_READAHEAD_BYTES)
    # The stub leaves the argument out.
    options.fill_cache(False)  # type: ignore[call-arg]
    return options


def _family_options(cache: Cache, *, point_lookups: bool, loading: bool) -> Options:
    table = BlockBasedOptions()
    table.set_block_cache(cache)
    # Index and filters live in the cache, so memory does not grow with the pending jobs.
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    table.set_format_version(5)
    options = Options(raw_mode=True)
    if point_lookups:
        # Ingest asks for ids that are mostly new, dispatch for ids in due order, which is no
        # order here: filters answer the first, small blocks keep the second cheap.
        table.set_block_size(JOBS_BLOCK_BYTES)
        table.set_bloom_filter(BLOOM_BITS_PER_KEY, False)
        if not loading:
            options.set_memtable_whole_key_filtering(True)
            options.set_memtable_prefix_bloom_ratio(MEMTABLE_BLOOM_RATIO)
    else:
        table.set_block_size(SCAN_BLOCK_BYTES)
    options.set_block_based_table_factory(table)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    options.set_max_write_buffer_number(2)
    options.set_level_compaction_dynamic_level_bytes(True)
    if loading:
        # Rows are sorted when a buffer is written out, in a thread of RocksDB's, instead of one
        # by one under the interpreter's lock: 0.2 us a row instead of 1.1.
        options.set_memtable_factory(MemtableFactory.vector())
        options.set_allow_concurrent_memtable_write(False)
        options.set_max_write_buffer_number(LOAD_BUFFERS_WAITING_MAX + 4)
        options.set_level_zero_file_num_compaction_trigger(LOAD_FILES_BEFORE_COMPACTION)
    # Every row is deleted in the end; files that are mostly deletions are compacted early,
    # so that scans do not wade through them.
    options.add_compact_on_deletion_collector_factory(_TOMBSTONES_WINDOW, _TOMBSTONES_TRIGGER, 0.5)
    return options
