"""The source of the pipeline on Ray Data: one block for each pending shard."""

from __future__ import annotations

from functools import partial

import pyarrow as pa
from ray.data import DataContext
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

_SCHEMA = pa.schema([("id", pa.int64())])


class Places(Datasource):
    """The places 0 to `count` - 1 in the list of pending shards, as the column `id`, one in each block.

    `ray.data.range` would do the same, but asks for a whole CPU for each block. Nodes with one CPU, on which an actor
    detects, never have it.
    """

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def estimate_inmemory_data_size(self) -> int:
        return 8 * self.count

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        one = BlockMetadata(num_rows=1, size_bytes=8, exec_stats=None, input_files=None)
        return [ReadTask(partial(_block, place), one, schema=_SCHEMA) for place in range(self.count)]


def _block(place: int) -> list[pa.Table]:
    return [pa.table({"id": [place]}, _SCHEMA)]
