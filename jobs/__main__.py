"""The command line: `crucible ...`, the same as `python -m jobs ...`."""

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from cluster.settings import apply_quiet_defaults
from fusion.errors import BadInputError, CrucibleError
from fusion.recipe import Recipe
from fusion.recipe_file import load_recipe
from jobs.keys import app as keys

if TYPE_CHECKING:
    from cluster.job import JobServer
    from fusion.run import Run

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130

# A file or a pipe has no width of its own: tables keep all that they have to say.
PLAIN_WIDTH = 160

console = Console(soft_wrap=True)
if not (console.is_terminal or "COLUMNS" in os.environ):
    console.width = PLAIN_WIDTH
errors = Console(stderr=True, soft_wrap=True)


class Guarded(TyperGroup):
    """Turns what a command raises into one sentence and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a user's mistake ends without a traceback."""
        try:
            return super().invoke(ctx)
        except BadInputError as error:
            errors.print("[red]error:[/red]", escape(_sentence(error)), highlight=False)
            raise typer.Exit(BAD_INPUT) from None
        except CrucibleError as error:
            errors.print("[red]failed:[/red]", escape(_sentence(error)), highlight=False)
            raise typer.Exit(FAILED) from None
        except BrokenPipeError:  # whoever read the output has enough of it
            raise
        except OSError as error:
            errors.print("[red]failed:[/red]", escape(_of_the_machine(error)), highlight=False)
            raise typer.Exit(FAILED) from None
        except KeyboardInterrupt:
            errors.print("interrupted; what is committed is kept, the same command resumes.")
            raise typer.Exit(INTERRUPTED) from None


def _sentence(error: CrucibleError) -> str:
    """What an error says; one that a Ray task raised says it under a traceback of its own."""
    cause = getattr(error, "cause", None)
    return str(cause if isinstance(cause, CrucibleError) else error)


def _of_the_machine(error: OSError) -> str:
    """What went wrong with a file or a connection."""
    if error.filename is None:
        return f"{type(error).__name__}: {error}"
    return f"{os.fsdecode(error.filename)}: {error.strerror}"


app = typer.Typer(
    cls=Guarded,
    help="Fuse several large language models into one compact model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(keys, name="keys")

RecipePath = Annotated[Path, typer.Argument(help="A recipe: one YAML file.")]
RunPath = Annotated[
    str, typer.Argument(help="The folder of a run (a path or s3://), or its recipe.")
]
Parameters = Annotated[
    list[str] | None,
    typer.Option("--set", help="NAME=VALUE for a ${NAME} in the recipe; repeatable."),
]


ClusterSpec = Annotated[
    str | None,
    typer.Option("--cluster", help="A cluster in words: NODESxGPUSxKIND-MEMORY, 2x8xH100-80GB."),
]


@app.command()
def validate(recipe: RecipePath, cluster: ClusterSpec = None, set_: Parameters = None) -> None:
    """Check all of a recipe that can be checked here, and whether it fits a cluster in words."""
    from jobs.plan import check_fit, described
    from jobs.validate import validate as check

    loaded = _load(recipe, set_)
    holdings = None if cluster is None else described(loaded, cluster)
    report = check(loaded)
    if holdings is not None:
        check_fit(loaded, holdings)
        report.checked.append(f"it fits {cluster}")
    for line in report.not_checked:
        console.print(f"not checked: {line}", markup=False, highlight=False)
    console.print(
        f"{recipe} is valid: {len(report.checked)} checks passed, "
        f"{len(report.not_checked)} not possible here.",
        markup=False,
        highlight=False,
    )


@app.command()
def plan(
    recipe: RecipePath,
    cluster: ClusterSpec = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    set_: Parameters = None,
) -> None:
    """Waves, GPUs, tokens, hours and bytes of a recipe on a cluster."""
    from jobs.plan import (
        described,
        holdings_at_hand,
        plan_json,
        plan_lines,
        plan_recipe,
        plan_table,
    )

    loaded = _load(recipe, set_)
    holdings = holdings_at_hand(loaded) if cluster is None else described(loaded, cluster)
    made = plan_recipe(loaded, holdings)
    if as_json:
        print(plan_json(made))
    else:
        console.print(plan_table(made, f"{loaded.name} on {cluster or 'the cluster at hand'}"))
        for line in plan_lines(made):
            console.print(line, markup=False, highlight=False)
    if made.misfits:
        raise typer.Exit(BAD_INPUT)


@app.command()
def run(
    recipe: RecipePath,
    stage: Annotated[list[str] | None, typer.Option(help="Only this stage; repeatable.")] = None,
    set_: Parameters = None,
) -> None:
    """Run a fusion, or some of its stages; what is done already is skipped."""
    from fusion.run import STAGES
    from jobs.progress import Progress
    from jobs.run import run_recipe
    from jobs.validate import validate as check

    stages = _stages(stage or list(STAGES))
    loaded = _load(recipe, set_)
    check(loaded, stages)
    progress = Progress(console)
    done = run_recipe(loaded, stages, progress)
    progress.say(f"[bold]done[/bold] {done.folder}")


@app.command()
def submit(
    what: Annotated[str, typer.Argument(metavar="RECIPE|status|logs|stop")],
    job: Annotated[str | None, typer.Argument(help="With status, logs, stop: the job.")] = None,
    address: Annotated[
        str | None, typer.Option(help="The cluster's job server, http://HEAD:8265.")
    ] = None,
    stage: Annotated[list[str] | None, typer.Option(help="Only this stage; repeatable.")] = None,
    shared: Annotated[
        list[Path] | None, typer.Option(help="A folder that all nodes have; it does not travel.")
    ] = None,
    submission_id: Annotated[str | None, typer.Option(help="Another name for the job.")] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not follow the job.")] = False,
    set_: Parameters = None,
) -> None:
    """Run a fusion as a job of a Ray cluster; the same command again finds the same job."""
    from jobs.submit import ACTIONS, act, job_server, submit_recipe

    if what in ACTIONS:
        act(job_server(address), what, job, console)
        return
    stages, loaded = _stages(stage or []), _load(Path(what), set_)
    server = job_server(address)
    name = submit_recipe(loaded, server, stages=stages, shared=shared or [], name=submission_id)
    console.print(f"job {name} on {server.address}", highlight=False)
    if not no_wait:
        _follow(server, name)


def _follow(server: "JobServer", name: str) -> None:
    """Print what the job prints, and end as it ends; an interrupt leaves the job alone."""
    try:
        code = server.follow(name, lambda text: print(text, end="", flush=True))
    except KeyboardInterrupt:
        errors.print(f"the job goes on; `crucible submit stop {name}` ends it.")
        raise typer.Exit(INTERRUPTED) from None
    if code:
        raise typer.Exit(code)


@app.command()
def status(run: RunPath, set_: Parameters = None) -> None:
    """What of a run is done, what is left, at which rates, and what is in quarantine."""
    from jobs.status import status_table

    console.print(status_table(_run_of(run, set_)))


@app.command()
def report(run: RunPath, set_: Parameters = None) -> None:
    """Make a run's result.json and report.html again."""
    from jobs.ingest import load_prompts
    from jobs.models import source_keys
    from jobs.report import accuracy_summary, run_report
    from jobs.score import scorer_keys

    of = _run_of(run, set_)
    if not of.manifest("ingest").exists():
        raise BadInputError(f"Run {of.recipe.name} has not begun; start it with crucible run.")
    made = run_report(of, load_prompts(of), source_keys(of, "train"), scorer_keys(of.recipe))
    console.print(accuracy_summary(made))
    console.print(f"{made.page_file}", highlight=False)


@app.command()
def publish(
    run: RunPath,
    to: Annotated[str | None, typer.Option(help="A folder (a path or s3://).")] = None,
    hub: Annotated[str | None, typer.Option(help="owner/name on the Hugging Face Hub.")] = None,
    private: Annotated[bool, typer.Option(help="Make new repositories private.")] = False,
    only: Annotated[
        Literal["dataset", "models"] | None, typer.Option(help="Not both, but this.")
    ] = None,
    set_: Parameters = None,
) -> None:
    """Put a finished run's data set and models with their cards into a folder or on the hub."""
    from jobs.publish import publish_run

    of = _run_of(run, set_)
    for place in publish_run(of, folder=to, hub=hub, private=private, only=only):
        console.print(f"published {place}", markup=False, highlight=False)


@app.command()
def verify(
    file: Annotated[
        Path,
        typer.Argument(help="JSON lines: id, verifier, response, gold, or tests and entry_point."),
    ],
    out: Annotated[Path, typer.Option(help="Where the verdicts go, as JSON lines.")],
) -> None:
    """Grade answers with gold or tests, without a fusion."""
    from jobs.verify import verify_file

    print(verify_file(file, out))


@app.command()
def show_mask(
    recipe: RecipePath,
    row: Annotated[str, typer.Option(help="A prompt_id, or a row's number in sft.data, dpo.data.")],
    set_: Parameters = None,
) -> None:
    """Show what training learns of a row and what not."""
    from fusion.run import Run
    from jobs.show_mask import masks_of_row

    for mask in masks_of_row(Run(_load(recipe, set_)), row):
        console.rule(f"{mask.name}: {mask.reply_tokens} of {mask.num_tokens} tokens are learned")
        console.print("[dim]not learned[/dim]")
        console.print(mask.prompt, style="dim", markup=False, highlight=False)
        console.print("[bold green]learned[/bold green]")
        console.print(mask.reply, style="green", markup=False, highlight=False)
        if mask.too_long:
            console.print(f"[red]{mask.too_long} tokens beyond max_length[/red]")


@app.command()
def serve(recipe: RecipePath, set_: Parameters = None) -> None:
    """Bring the sources, the reward model and the endpoint up, until interrupted."""
    from jobs.serve import serve_recipe

    serve_recipe(_load(recipe, set_), console)


@app.command()
def ask(
    recipe: RecipePath,
    prompt: str,
    source: Annotated[
        list[str] | None, typer.Option(help="A source to ask; repeatable; all by default.")
    ] = None,
    n: Annotated[int, typer.Option("-n", help="Answers of each source.")] = 1,
    score: Annotated[bool, typer.Option(help="Rate them by the reward model.")] = False,
    gold: Annotated[str | None, typer.Option(help="The right answer, to compare with.")] = None,
    verifier: Annotated[
        str | None, typer.Option(help="How to compare: math, exact or choice.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    set_: Parameters = None,
) -> None:
    """Ask the sources of an endpoint that `crucible serve` brought up."""
    from jobs.ask import Question, answers_table, ask_sources

    question = Question(prompt, tuple(source or ()), n, score, gold, verifier)
    answers = ask_sources(_load(recipe, set_).endpoint, question)
    if as_json:
        print(json.dumps(answers, ensure_ascii=False))
    else:
        console.print(answers_table(answers))


def _stages(named: list[str]) -> list[str]:
    from fusion.run import STAGES

    if unknown := [stage for stage in named if stage not in STAGES]:
        raise BadInputError(f"There is no stage {unknown[0]}; known are {', '.join(STAGES)}.")
    return named


def _load(path: Path, parameters: list[str] | None) -> Recipe:
    pairs = [text.partition("=") for text in parameters or []]
    if bad := [name for name, equals, _ in pairs if not (name and equals)]:
        raise BadInputError(f"--set {bad[0]} is no NAME=VALUE.")
    return load_recipe(path, {name: value for name, _, value in pairs})


def _run_of(place: str, parameters: list[str] | None) -> "Run":
    """The run in a folder (a path or s3://), or that of a recipe.

    Raises:
        BadInputError: there is no such run or recipe.
    """
    from fusion.recipe_file import stored_recipe
    from fusion.run import Run
    from fusion.store import Location

    if place.endswith((".yaml", ".yml")):
        return Run(_load(Path(place), parameters))
    stored = Location.of(place) / "recipe.yaml"
    if not stored.exists():
        raise BadInputError(f"There is no run in {place}; give a run's folder or its recipe.")
    return Run(stored_recipe(stored.read_bytes(), origin=str(stored)))


def main() -> None:
    """The entry point of `crucible`."""
    apply_quiet_defaults()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app(prog_name="crucible")


if __name__ == "__main__":
    main()
