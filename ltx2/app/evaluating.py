"""`task=evaluate`: the pocket model's adherence over held-out prompts, through any pipeline."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ltx2.experiment.diary import Extras
from ltx2.experiment.record import write_text
from ltx2.experiment.session import Session

if TYPE_CHECKING:
    from ltx2.app.schema import Root
    from ltx2.experiment.adherence import Asked, Judged
    from ltx2.experiment.cell import Job

log = logging.getLogger(__name__)

RESULT = "evaluation.json"


def evaluate(settings: Root, folder: Path, job: Job | None = None) -> None:
    """Make a clip per prompt, judge it, print the table and write evaluation.json."""
    from ltx2.app.ahead import encode_texts
    from ltx2.experiment.adherence import figures, held_out_prompts, summary, table_text
    from ltx2.training.progress import Progress

    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    given = settings.evaluate
    asked = held_out_prompts(given.count, given.things, given.seed)
    runs = [
        replace(settings, prompt=item.prompt, seed=settings.seed + index)
        for index, item in enumerate(asked)
    ]
    session = Session()
    encode_texts(runs, session)
    progress = Progress("evaluate", len(asked))
    judged: list[Judged] = []
    try:
        for index, (item, run) in enumerate(zip(asked, runs, strict=True)):
            with _quiet():
                judged.append(_judge(item, run, folder / f"{index:03d}", session))
            if not given.keep:
                shutil.rmtree(folder / f"{index:03d}", ignore_errors=True)
            right = sum(j.agreement.everything for j in judged)
            progress.advance(note=f"all right in {right} of {len(judged)}")
    finally:
        progress.end()
    rows, means = summary(judged), figures(judged)
    sys.stdout.write(table_text(rows, means) + "\n")
    content = {
        "pipeline": settings.pipeline.name,
        "model": settings.model.name,
        "count": given.count,
        "things": given.things,
        "seed": given.seed,
        "summary": rows,
        "figures": means,
        "clips": [item.record() for item in judged],
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / RESULT, json.dumps(content, indent=1) + "\n")
    log.info("wrote %s", folder / RESULT)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Only warnings of what each run says about itself."""
    loggers = [
        logging.getLogger(f"ltx2.{name}")
        for name in ("steps", "pipelines", "experiment", "weights")
    ]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _judge(item: Asked, run: Root, folder: Path, session: Session) -> Judged:
    from ltx2.app.ahead import make_backend
    from ltx2.experiment.adherence import Judged, Watching
    from ltx2.experiment.run import generate

    watching = Watching(item)
    extras = Extras(session=session, cache=run.cache, metrics={"evaluate": watching})
    began = time.monotonic()
    generate(run, partial(make_backend, run), folder, extras=extras)
    assert watching.judged is not None
    reading, agreement = watching.judged
    return Judged(item, reading, agreement, time.monotonic() - began)
