"""``distseg app``: the web page on which a model is tried."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

_REMOVING_S = 5.0
TERMINATED = 143
"""The shell's exit code for SIGTERM."""


def app(
    model: Annotated[Path, typer.Argument(metavar="MODEL.ts", help="A file made by 'distseg export', of any task.")],
    port: Annotated[int, typer.Option(metavar="P", min=0, max=65535, help="0: any that is free.")] = 7860,
    auth_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Lines 'user:password'; readable by its owner alone.")
    ] = None,
    study: Annotated[
        str | None, typer.Option(metavar="STUDY", help="A second tab: its leaderboard and its report.")
    ] = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="0.0.0.0: for other computers, too; needs --auth-file.")
    ] = "127.0.0.1",
    home: Annotated[str | None, typer.Option(metavar="DIR", help="Default: DISTSEG_HOME, else ~/.distseg.")] = None,
) -> None:
    """Serve a web page on which a model is tried: send an image, see what it finds, at any threshold.

    Needs no network. Only this computer can open it, unless --host says otherwise. Ctrl-C ends it.

    Example:

        distseg app model.ts --study first
    """
    from importlib.util import find_spec

    from distseg.app.address import bound, is_loopback, url_of
    from distseg.app.users import read_users
    from distseg.errors import InputError
    from distseg.home import Home

    if find_spec("gradio") is None:
        raise InputError("app: gradio is not installed; install it with: pip install 'distseg[app]'")
    users = None if auth_file is None else read_users(auth_file)
    if users is None and not is_loopback(host):
        raise InputError(f"--host {host}: would let anybody on the network in; name who may with --auth-file FILE")
    folder = None if study is None else Home.from_environment(home).existing_study(study)
    signal.signal(signal.SIGTERM, _end)  # so that what was uploaded is removed
    with bound(host, port) as place, _own_folder() as files:
        from distseg.data.processes import give_memory_back

        give_memory_back()  # before there are threads
        from distseg.predict.answer import open_answerer

        answerer = open_answerer(model)
        _settle_gradio(files / "uploads")
        from distseg.app.server import Site, serve

        def ready() -> None:
            print(f"{model} on {url_of(place)} (Ctrl-C ends it)", flush=True)

        serve(Site(model.name, answerer, folder, users), place, files, ready)


@contextmanager
def _own_folder() -> Iterator[Path]:
    """A temporary folder, removed at the end with what an answer that was under way may still write into it."""
    folder = Path(tempfile.mkdtemp(prefix="distseg-app-"))
    try:
        yield folder
    finally:
        deadline = time.monotonic() + _REMOVING_S
        while folder.exists() and time.monotonic() < deadline:
            shutil.rmtree(folder, ignore_errors=True)


def _settle_gradio(uploads: Path) -> None:
    """Gradio's settings are variables, read when it is imported: none of the caller's, and nothing sent anywhere."""
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ |= {
        "GRADIO_TEMP_DIR": str(uploads),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
    }


def _end(*_: Any) -> None:
    raise SystemExit(TERMINATED)
