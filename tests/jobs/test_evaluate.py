"""The stage evaluate, where no prompt is held out and so no model is asked."""

from io import StringIO

import pytest
from rich.console import Console

from fusion.run import Run
from fusion.store import Table
from jobs.evaluate import run_evaluate
from jobs.ingest import load_prompts, run_ingest
from jobs.progress import Progress
from jobs.run import NOTHING
from tests.jobs.small_run import small_recipe


def test_an_evaluation_stopped_while_it_replaces_results_is_not_done(tmp_path, monkeypatch):
    def stop(table, rows):
        raise KeyboardInterrupt

    run = Run(small_recipe(tmp_path))
    run_ingest(run)
    others = (load_prompts(run), NOTHING, Progress(Console(file=StringIO())))
    run_evaluate(run, *others)
    assert run.manifest("evaluate").exists()
    target = run.recipe.target.model_copy(update={"revision": "v2"})
    other = Run(run.recipe.model_copy(update={"target": target}))
    with monkeypatch.context() as patch:
        patch.setattr(Table, "append", stop)
        with pytest.raises(KeyboardInterrupt):
            run_evaluate(other, *others)
    assert not run.manifest("evaluate").exists()
