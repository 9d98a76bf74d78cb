"""``distseg jobs``: a durable queue in front of Ray Jobs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distseg.cli.rendering import render

if TYPE_CHECKING:
    from distseg.queue.client import Queue
    from distseg.queue.models import Job

LISTED = 100
"""Rows of a table, unless told otherwise."""
_FAILED = 1

app = typer.Typer(
    no_args_is_help=True,
    help="Queue jobs in front of a Ray cluster.\n\nExample: distseg jobs submit --gpus 1 -- python train.py",
)

Ref = Annotated[str, typer.Argument(metavar="JOB", help="Its id, or its name if no other job has it.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
HomeOption = Annotated[
    str | None, typer.Option("--home", metavar="DIR", help="Default: DISTSEG_HOME, else ~/.distseg.")
]


@app.command(context_settings={"allow_interspersed_args": False})
def submit(
    command: Annotated[list[str], typer.Argument(metavar="-- CMD...", help="The command and its arguments.")],
    name: Annotated[str, typer.Option(help="Default: made from the command.")] = "",
    priority: Annotated[int, typer.Option(help="Higher goes first.")] = 0,
    gpus: Annotated[float, typer.Option(help="GPUs in all, over its workers; fractions allowed.")] = 0.0,
    cpus: Annotated[float, typer.Option(help="CPUs in all, over its workers.")] = 1.0,
    workers: Annotated[
        int, typer.Option(help="Workers that share them evenly. Default: one a GPU, else one a CPU.")
    ] = 0,
    alone: Annotated[
        bool, typer.Option("--alone", help="The command computes itself, on one node, without Ray.")
    ] = False,
    after: Annotated[list[str] | None, typer.Option(metavar="JOB", help="Start once this job has succeeded.")] = None,
    after_any: Annotated[list[str] | None, typer.Option(metavar="JOB", help="Start once it has ended.")] = None,
    retries: Annotated[int, typer.Option(help="Further attempts after real failures.")] = 0,
    timeout_s: Annotated[float | None, typer.Option(help="Limit of each attempt, in seconds.")] = None,
    working_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Zipped now; the command starts in it.")
    ] = None,
    owner: Annotated[str, typer.Option(help="Default: you.")] = "",
    as_json: AsJson = False,
    home: HomeOption = None,
) -> None:
    """Add a job to the queue. What it declares is set aside for it as a whole when it starts.

    Example:

        distseg jobs submit --gpus 2 --cpus 8 --retries 2 -- distseg tune search.yaml --data /data/shards
    """
    from distseg.queue.models import JobSpec

    spec = JobSpec(
        command=tuple(command),
        name=name,
        owner=owner,
        priority=priority,
        gpus=gpus,
        cpus=cpus,
        workers=workers,
        alone=alone,
        after=tuple(after or ()),
        after_any=tuple(after_any or ()),
        retries=retries,
        timeout_s=timeout_s,
        working_dir=str(working_dir) if working_dir else None,
    )
    job = _queue(home).submit(spec)
    _done(
        job,
        as_json,
        f"{job.id}: queued as '{job.name}'\n"
        f"what it waits for:  distseg jobs explain {job.id}\n"
        f"its output:         distseg jobs logs {job.id} --follow\n"
        f"until it is over:   distseg jobs wait {job.id}\n"
        f"no longer wanted:   distseg jobs cancel {job.id}",
    )


@app.command("list")
def list_jobs(
    limit: Annotated[
        int | None, typer.Option(min=1, help=f"Rows at most. Default: {LISTED} in a table, all with --json.")
    ] = None,
    as_json: AsJson = False,
    home: HomeOption = None,
) -> None:
    """List jobs in scheduling order: those that run, those that wait, then the latest that ended.

    Example: distseg jobs list
    """
    from distseg.cli.console import print_table
    from distseg.queue.client import to_json

    queue = _queue(home)
    if as_json:
        _print_rows("jobs", [to_json(job) for job in queue.jobs(limit)])
        return
    found = queue.jobs(limit or LISTED)
    columns = ("id", "name", "state", "priority", "gpus", "cpus", "attempt", "owner", "reason")
    rows = [
        (
            *(job.id, job.name, job.state, job.priority, f"{job.gpus:g}", f"{job.cpus:g}", job.attempt, job.owner),
            job.reason or "",
        )
        for job in found
    ]
    counts = queue.counts()
    print_table(", ".join(f"{count} {state}" for state, count in counts.items()) or "no jobs yet", columns, rows)
    if len(found) < sum(counts.values()):
        typer.echo(
            f"... and {sum(counts.values()) - len(found)} more: distseg jobs list --limit {sum(counts.values())}"
        )


@app.command()
def show(job: Ref, as_json: AsJson = False, home: HomeOption = None) -> None:
    """Show all that is known of a job: its attempts, and every change.

    Example: distseg jobs show train
    """
    import shlex

    from distseg.cli.console import print_json, print_table
    from distseg.queue.client import to_json

    queue = _queue(home)
    found = queue.job(job)
    attempts, events = queue.attempts(found.id), queue.events(found.id)
    if as_json:
        tries = [
            {
                "number": attempt.number,
                "state": attempt.state.value,
                "host": attempt.host,
                "exit_code": attempt.exit_code,
                "reason": attempt.reason,
                "nodes": sorted({share.node for share in attempt.placement}),
            }
            for attempt in attempts
        ]
        changes = [
            {"at": event.at, "attempt": event.attempt, "kind": event.kind, "text": event.text} for event in events
        ]
        print_json(to_json(found) | {"attempts": tries, "events": changes})
        return
    typer.echo(
        f"{found.id} ({found.name}) of {found.owner}: {found.state}" + (f", {found.reason}" * bool(found.reason))
    )
    typer.echo(f"command: {shlex.join(found.command)}")
    limit = f", {found.timeout_s:g} s at most" if found.timeout_s else ""
    typer.echo(
        f"needs:   {found.gpus:g} GPU, {found.cpus:g} CPU over {found.workers} workers{limit}; priority "
        f"{found.priority}; {found.failures} of {found.retries} retries used"
    )
    rows = [(_when(event.at), event.attempt or "", event.kind, event.text) for event in events]
    print_table("history", ("at", "attempt", "what", "why"), rows)


@app.command()
def explain(job: Ref, as_json: AsJson = False, home: HomeOption = None) -> None:
    """Say what a job waits for and what would free it.

    Example: distseg jobs explain train
    """
    from distseg.cli.console import print_json

    queue = _queue(home)
    sentence = queue.explain(job)
    if as_json:
        found = queue.job(job)
        print_json({"id": found.id, "state": found.state.value, "explanation": sentence})
    else:
        typer.echo(sentence)


@app.command()
def logs(
    job: Ref,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on, over all attempts, until it is over.")] = False,
    home: HomeOption = None,
) -> None:
    """Print a job's output, one attempt after the other.

    Example: distseg jobs logs train --follow
    """
    import sys

    from distseg.queue.client import output_of

    for piece in output_of(_queue(home), job, follow):
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()


@app.command()
def wait(
    jobs: Annotated[list[str], typer.Argument(metavar="JOB...", help="Ids or names.")],
    timeout_s: Annotated[float | None, typer.Option(help="Give up after so many seconds.")] = None,
    as_json: AsJson = False,
    home: HomeOption = None,
) -> None:
    """Wait until jobs are over. Ends with 0 when all have succeeded, else with 1.

    Example: distseg jobs wait train --timeout-s 3600
    """
    from distseg.queue.client import to_json
    from distseg.queue.states import JobState

    found = _queue(home).wait(jobs, timeout_s)
    if as_json:
        _print_rows("jobs", [to_json(job) for job in found])
    else:
        for job in found:
            typer.echo(f"{job.id} ({job.name}): {job.state}, {job.reason}")
    if any(job.state is not JobState.SUCCEEDED for job in found):
        raise typer.Exit(_FAILED)


@app.command()
def cancel(job: Ref, as_json: AsJson = False, home: HomeOption = None) -> None:
    """End a job, whether it waits or runs. What runs is given time for a last checkpoint, then killed.

    Example: distseg jobs cancel train
    """
    found = _queue(home).cancel(job)
    _done(found, as_json, f"{found.id}: {found.state}")


@app.command()
def retry(job: Ref, as_json: AsJson = False, home: HomeOption = None) -> None:
    """Queue a job again that failed, timed out or was cancelled. It keeps its id, and so finds its run folder.

    Example: distseg jobs retry train
    """
    found = _queue(home).retry(job)
    _done(found, as_json, f"{found.id}: {found.state}")


@app.command()
def priority(
    job: Ref,
    value: Annotated[int, typer.Argument(metavar="PRIORITY", help="Higher goes first.")],
    as_json: AsJson = False,
    home: HomeOption = None,
) -> None:
    """Change a job's priority. A negative one goes after '--'.

    Example: distseg jobs priority train 10
    """
    found = _queue(home).set_priority(job, value)
    _done(found, as_json, f"{found.id}: priority {found.priority}")


@app.command()
def pause(job: Ref, as_json: AsJson = False, home: HomeOption = None) -> None:
    """Hold a waiting job back.

    Example: distseg jobs pause train
    """
    found = _queue(home).pause(job)
    _done(found, as_json, f"{found.id}: {found.state}")


@app.command()
def unpause(job: Ref, as_json: AsJson = False, home: HomeOption = None) -> None:
    """Let a paused job wait for its turn again.

    Example: distseg jobs unpause train
    """
    found = _queue(home).unpause(job)
    _done(found, as_json, f"{found.id}: {found.state}")


@app.command()
def serve(
    address: Annotated[
        str | None,
        typer.Option(metavar="RAY", help="The dashboard's, http://HOST:8265. Default: RAY_API_SERVER_ADDRESS."),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Look once at everything, start what may start, and leave.")
    ] = False,
    max_per_owner: Annotated[int | None, typer.Option(min=1, help="Jobs of one owner that may run at once.")] = None,
    preempt: Annotated[bool, typer.Option("--preempt", help="Stop jobs for waiting ones of higher priority.")] = False,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Accept a cluster that others can reach without a token.")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Start the queue's jobs on a Ray cluster as its resources allow, until Ctrl-C. A second one stands by.

    Example:

        distseg jobs serve --address http://127.0.0.1:8265
    """
    from distseg.cli.serving import serve_queue

    serve_queue(home, address, once=once, max_per_owner=max_per_owner, preempt=preempt, insecure=insecure)


app.command()(render)


def _queue(home: str | None) -> "Queue":
    import gc

    gc.disable()  # while SQLAlchemy is loaded: a tenth of a short command's time
    from distseg.home import Home
    from distseg.queue.client import Queue

    gc.enable()
    return Queue.open(Home.from_environment(home))


def _done(job: "Job", as_json: bool, words: str) -> None:
    from distseg.cli.console import print_json
    from distseg.queue.client import to_json

    if as_json:
        print_json(to_json(job))
    else:
        typer.echo(words)


def _print_rows(name: str, rows: list[dict[str, object]]) -> None:
    """One JSON document, one row a line: 10,000 indented ones would take longer than all the rest."""
    import json

    body = ",\n".join(json.dumps(row) for row in rows)
    print(f'{{"{name}": [\n{body}\n]}}')


def _when(seconds: float) -> str:
    """Local time."""
    from datetime import datetime

    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")
