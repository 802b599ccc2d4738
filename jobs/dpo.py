"""The stage dpo: the fine-tuned target learns what to prefer."""

from cluster.connection import Holdings
from fusion.checkpoints import checkpoint_location, is_complete
from fusion.errors import CrucibleError
from fusion.identity import content_hash
from fusion.run import Run
from fusion.store import Counts, Location, Manifest, is_current
from fusion.training_rows import hold_out
from jobs.progress import Progress
from jobs.reference import reference_inputs, tokenised_preferences, with_reference
from jobs.select import check_selected
from jobs.sft import sft_checkpoint
from jobs.stage import StageClock, write_manifest
from jobs.training import token_count, train, training_account

STAGE = "dpo"


def dpo_inputs(run: Run) -> dict[str, str]:
    """Fingerprints of all that the final target depends on."""
    section = content_hash(run.recipe.dpo.shaping())
    return {**reference_inputs(run), "training": section}


def dpo_checkpoint(run: Run) -> Location:
    """Where the final target lies, or will."""
    return checkpoint_location(run, STAGE, dpo_inputs(run))


def run_dpo(run: Run, holdings: Holdings, progress: Progress) -> Manifest:
    """Optimise the target's preferences, unless that was done for the same inputs.

    Raises:
        CrucibleError: there are no pairs, or training failed.
    """
    check_selected(run, run.recipe.dpo)
    inputs = dpo_inputs(run)
    checkpoint = checkpoint_location(run, STAGE, inputs)
    done = Manifest.read(run.manifest(STAGE))
    if done and is_current(done, inputs) and is_complete(checkpoint):
        return done
    clock = StageClock()
    section = run.recipe.dpo
    made, held_out = hold_out(tokenised_preferences(run), section.held_out, seed=section.seed)
    if made.rows.num_rows == 0:
        raise CrucibleError(
            f"Stage dpo has no pairs: {made.entered} entered, dropped {made.dropped}; look at the "
            "yields of `crucible report`, widen selection.margin or raise dpo.max_length."
        )
    if not is_complete(checkpoint):
        train(
            name=f"{run.recipe.name} {STAGE}",
            model=str(sft_checkpoint(run)),
            revision=None,
            training=section,
            rows=with_reference(made.rows, run),
            held_out=with_reference(held_out, run),
            lineage=inputs,
            checkpoint=checkpoint,
            log=run.training_log(STAGE),
            holdings=holdings,
            progress=progress,
        )
    tokens = token_count(made.rows, ("prompt_ids", "prompt_ids", "chosen_ids", "rejected_ids"))
    return write_manifest(
        run,
        STAGE,
        clock,
        inputs=inputs,
        counts=Counts(
            entered=made.entered, results=made.rows.num_rows, dropped=made.dropped, unit="pairs"
        ),
        tokens={"training": int(tokens * section.epochs)},
        extra=training_account(checkpoint, made),
    )
