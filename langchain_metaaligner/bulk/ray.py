"""The rows of a Ray data set, edited on as many machines as Ray has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_metaaligner.bulk.added_columns import added_columns, names_of
from langchain_metaaligner.bulk.row_items import RowItems
from langchain_metaaligner.bulk.source import arrow
from langchain_metaaligner.editing.aligner import Aligner
from langchain_metaaligner.editing.objectives import Objectives, parse_objectives
from langchain_metaaligner.errors import BulkError
from langchain_metaaligner.training.data.fields import BadRowError


class MetaAlignerBatches:
    """Edits batches of rows, for `Dataset.map_batches`; each worker loads an aligner of its own.

    Rows have the fields that `edit_file` reads, and get the columns that it adds. A row that can't
    be edited stays, without `edited`; its `metaaligner` has the status `failed` and the reason.

    Args:
        objectives: One or more objectives, for all rows.
        columns: Our name of a field to its name in the data.
        prefix: What to put before the names of the added columns.
        **options: The options of `Aligner`, `model` among them.
    """

    def __init__(
        self,
        objectives: Objectives,
        *,
        columns: Mapping[str, str] | None = None,
        prefix: str = "",
        **options: Any,
    ) -> None:
        self._wanted, self._items = parse_objectives(objectives), RowItems(columns)
        self._names = names_of(prefix)
        self._aligner = Aligner(**options).load()

    def __call__(self, batch: Any) -> Any:
        """Edit a batch, and return it as a table of pyarrow."""
        pa = arrow()
        is_numpy = isinstance(batch, Mapping)
        table = pa.table({one: list(batch[one]) for one in batch} if is_numpy else batch)
        if taken := set(self._names) & set(table.column_names):
            message = f"The rows have {', '.join(taken)} already. Give a prefix=."
            raise BulkError(message)
        made: list[Any] = []
        for row in table.to_pylist():
            try:
                made.append((*self._items.read(row), self._wanted))
            except BadRowError as error:
                made.append(error)
        given = [one for one in made if isinstance(one, tuple)]
        edits = iter(self._aligner.align_batch(given, return_exceptions=True))
        rows = [added_columns(next(edits) if isinstance(one, tuple) else one) for one in made]
        for place, name in enumerate(self._names):
            cells = pa.array([row[place] for row in rows], pa.string())
            table = table.append_column(name, cells)
        return table
