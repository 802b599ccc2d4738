"""The stage sft: the target learns the best answers."""

from cluster.connection import Holdings
from fusion.checkpoints import checkpoint_location, is_complete
from fusion.errors import CrucibleError
from fusion.identity import content_hash, model_fingerprint
from fusion.run import Run
from fusion.store import Counts, Location, Manifest, is_current
from fusion.training_rows import hold_out
from jobs.conversations import tokenised_conversations, training_source
from jobs.progress import Progress
from jobs.select import check_selected
from jobs.stage import StageClock, write_manifest
from jobs.training import token_count, train, training_account

STAGE = "sft"


def sft_inputs(run: Run) -> dict[str, str]:
    """Fingerprints of all that the fine-tuned target depends on."""
    recipe = run.recipe
    return {
        "target": model_fingerprint(recipe.target.model, recipe.target.revision),
        "training": content_hash(recipe.sft.shaping()),
        "data": training_source(run.sft(), recipe.sft).fingerprint(),
    }


def sft_checkpoint(run: Run) -> Location:
    """Where the fine-tuned target lies, or will."""
    return checkpoint_location(run, STAGE, sft_inputs(run))


def run_sft(run: Run, holdings: Holdings, progress: Progress) -> Manifest:
    """Fine-tune the target, unless that was done for the same inputs.

    Raises:
        CrucibleError: there is nothing to learn from, or training failed.
    """
    check_selected(run, run.recipe.sft)
    inputs = sft_inputs(run)
    checkpoint = checkpoint_location(run, STAGE, inputs)
    done = Manifest.read(run.manifest(STAGE))
    if done and is_current(done, inputs) and is_complete(checkpoint):
        return done
    clock = StageClock()
    target, section = run.recipe.target, run.recipe.sft
    source = training_source(run.sft(), section)
    made = tokenised_conversations(source, target.model, target.revision, section)
    made, held_out = hold_out(made, section.held_out, seed=section.seed)
    if made.rows.num_rows == 0:
        raise CrucibleError(
            f"Stage sft has nothing to learn from: {made.entered} conversations, dropped "
            f"{made.dropped}; look at the yields of `crucible report`, or raise sft.max_length."
        )
    if not is_complete(checkpoint):
        train(
            name=f"{run.recipe.name} {STAGE}",
            model=target.model,
            revision=target.revision,
            training=section,
            rows=made.rows,
            held_out=held_out,
            lineage=inputs,
            checkpoint=checkpoint,
            log=run.training_log(STAGE),
            holdings=holdings,
            progress=progress,
        )
    tokens = token_count(made.rows, ("prompt_ids", "reply_ids"))
    return write_manifest(
        run,
        STAGE,
        clock,
        inputs=inputs,
        counts=Counts(
            entered=made.entered,
            results=made.rows.num_rows,
            dropped=made.dropped,
            unit="conversations",
        ),
        tokens={"training": int(tokens * section.epochs)},
        extra=training_account(checkpoint, made),
    )
