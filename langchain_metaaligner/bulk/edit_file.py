"""Edits the replies of a file: in constant memory, and resumable at any moment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from langchain_metaaligner.bulk.added_columns import names_of
from langchain_metaaligner.bulk.folder import locked
from langchain_metaaligner.bulk.kinds import kind_of
from langchain_metaaligner.bulk.row_items import RowItems
from langchain_metaaligner.bulk.run import OnProgress, Run
from langchain_metaaligner.bulk.run_files import GivenSource, RunFiles, writing
from langchain_metaaligner.bulk.settings import settings_of
from langchain_metaaligner.bulk.shards import (
    shards_of,
)
from langchain_metaaligner.bulk.source import long_fields
from langchain_metaaligner.bulk.summary import BulkSummary
from langchain_metaaligner.editing.aligner import Aligner
from langchain_metaaligner.editing.objectives import Objectives, parse_objectives
from langchain_metaaligner.errors import (
    BulkError,
)


def edit_file(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    objectives: Objectives,
    aligner: Aligner | None = None,
    columns: Mapping[str, str] | None = None,
    kind: str | None = None,
    prefix: str = "",
    chunk_size: int = 256,
    batch_size: int = 16,
    max_concurrency: int = 2,
    resume: bool = True,
    on_progress: OnProgress | None = None,
) -> BulkSummary:
    """Edit the replies of a file, and write its rows with the edits.

    Each row keeps its columns as they are and gets two more: `edited`, the answer after the edit,
    and `metaaligner`, what is known of it. Rows that can't be read, and rows whose edit fails, go
    to a file beside the output, `….problems.jsonl`, with their place and the reason. Rows stay in
    their order.

    Rows are read a chunk at a time, and a chunk that is done is on the disk for good: after an
    error, an interrupt or a kill, the same call goes on from there. Until the output is complete,
    the work is in the folder `….parts` beside it.

    A row has these fields; `columns` maps other names to them:

    - the context: `context` (text as given to the aligner, or messages), `messages`, or the user's
      question alone in `prompt`, `question`, `query` or `instruction`;
    - the answer: `answer`, `response`, `reply`, `completion`, `original`, or as the authors of
      MetaAligner call it, `generated_text`, `origin_responses` or `origins`. Of `messages` that end
      with an assistant's, the last is the answer.

    Args:
        source: A JSONL, CSV, TSV or parquet file, also compressed (`.jsonl.gz`), or a pipe; `-` is
            standard input. A pipe is first copied to the disk.
        out: The file to write; its name says of which kind. Without a known one, it becomes what
            the source is.
        objectives: One or more objectives, for all rows.
        aligner: The aligner; by default `Aligner()`.
        columns: Our name of a field to its name in the data, with dots into nested fields.
        kind: What the source is, if its name doesn't say: `jsonl`, `csv`, `tsv`, `parquet`.
        prefix: What to put before the names of the added columns.
        chunk_size: How many rows are read, edited and put on the disk at a time. Rows of like
            length of a chunk are edited together.
        batch_size: How many rows go to the engine with one call.
        max_concurrency: How many such calls are made at the same time.
        resume: Whether to go on with an earlier run. If not, what it has made is replaced.
        on_progress: Called after each chunk, and at times within one. What it raises ends the run,
            which can be resumed.

    Returns:
        What became of the rows. If the output is complete already, that of the run that made it.

    Raises:
        BulkError: The source can't be read, or no row has a context and an answer; the output can't
            be written, or belongs to another run; or the engine fails for all rows.
        CheckpointError: The checkpoint can't be loaded or used.
        UnknownObjectiveError: An objective is unknown, or not one of the checkpoint's.
    """
    for name, number in (
        ("chunk_size", chunk_size),
        ("batch_size", batch_size),
        ("max_concurrency", max_concurrency),
    ):
        if number < 1:
            msg = f"{name} must be at least 1, not {number}."
            raise BulkError(msg)
    wanted = parse_objectives(objectives)
    items = RowItems(columns)
    target = Path(out)
    if target.is_symlink():
        target = target.resolve()  # a rename would replace the link, not what it leads to
    given = GivenSource.of(source, target, kind)
    to = kind_of(target) or given.kind
    own = aligner is None
    used = Aligner() if aligner is None else aligner
    settings = settings_of(
        used, wanted, columns=columns, prefix=prefix, kinds=(str(given.kind), str(to))
    )
    try:
        with ExitStack() as held:
            with writing(target):
                held.enter_context(locked(target))
            held.enter_context(long_fields())
            files = RunFiles(given, target, settings, resume=resume)
            done = files.done()
            if done is not None:
                return done
            opened = held.enter_context(files.opened())
            run = Run(
                files=files,
                source=opened,
                shards=shards_of(opened, to, names_of(prefix)),
                items=items,
                aligner=used,
                objectives=wanted,
                names=names_of(prefix),
                chunk_size=chunk_size,
                batch_size=batch_size,
                max_concurrency=max_concurrency,
                on_progress=on_progress,
            )
            return run.run()
    finally:
        if own:
            used.close()
