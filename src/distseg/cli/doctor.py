"""``distseg doctor``: what this machine or cluster can do, and what is missing."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from distseg.doctor.finding import Survey

FAILED = 1
_TIMEOUT_S = 60.0
"""Of the probes that load torch or Ray, which takes its time from a busy network disk."""
_STORAGE_TIMEOUT_S = 20.0
_COLOURS = {"ok": "green", "warning": "yellow", "missing": "cyan", "error": "bold red"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    home: Annotated[str | None, typer.Option(metavar="DIR", help="Default: DISTSEG_HOME, else ~/.distseg.")] = None,
) -> None:
    """Say what this machine, and the Ray cluster that RAY_ADDRESS names, can do, and what is missing.

    Ends with 0 when nothing is an error, else with 1. Asks nobody but that cluster and the queue's store.

    Example:

        distseg doctor
    """
    from functools import partial

    from distseg.cli.console import print_json, print_table
    from distseg.doctor.finding import Asked, Level, survey
    from distseg.doctor.gpu import gpus
    from distseg.doctor.machine import machine
    from distseg.doctor.software import software
    from distseg.doctor.storage import storage
    from distseg.doctor.store import store

    address = os.environ.get("RAY_ADDRESS")
    named = (address, os.environ.get("RAY_API_SERVER_ADDRESS"), os.environ.get("RAY_AUTH_MODE"))
    from_ray = Asked("Ray cluster", partial(_cluster, *named), _TIMEOUT_S)
    from_gpus = Asked("GPUs", gpus, _TIMEOUT_S)
    here = [*survey("libraries", software).findings, *survey("machine", machine).findings]
    of_ray = from_ray.answer()  # whether home and store suffice depends on how many hosts there are
    url = os.environ.get("DISTSEG_QUEUE_URL")
    from_home = Asked("home", partial(storage, home, of_ray.hosts), _STORAGE_TIMEOUT_S)
    from_store = Asked("queue's store", partial(store, home, url, of_ray.hosts), _STORAGE_TIMEOUT_S)
    rest = [from_gpus.answer(), from_home.answer(), from_store.answer(), of_ray]
    found = [*here, *(finding for each in rest for finding in each.findings)]
    healthy = all(finding.level is not Level.ERROR for finding in found)
    if as_json:
        print_json({"ok": healthy, "findings": [finding.to_json() for finding in found]})
    else:
        rows = [(finding.level.value, finding.name, finding.value, finding.next_step) for finding in found]
        counted = {level: sum(finding.level is level for finding in found) for level in Level}
        title = ", ".join(f"{count} {level}" for level, count in counted.items() if count)
        print_table(title, ("", "what", "found", "next step"), rows, _COLOURS)
    if not healthy:
        raise typer.Exit(FAILED)


def _cluster(address: str | None, dashboard: str | None, auth_mode: str | None) -> "Survey":
    """Loads Ray, in the process of the probe."""
    from distseg.on_ray.doctor import cluster

    return cluster(address, dashboard, auth_mode)
