"""The main job end to end on a Ray of its own: what ``make demo`` runs.

Photographs (made up, or ``--raw``), a search submitted with ``ray job submit``, the leaderboard, and the winner as one
file with its submission and score. Results stay in ``DISTSEG_HOME`` (default ``out/``); the Ray is stopped at the end.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from local import running

from distseg.data.layouts import read_corpus
from distseg.errors import DistsegError
from distseg.home import Home, unique_name

REPOSITORY = Path(__file__).resolve().parent.parent
PROGRAMS = Path(sys.executable).parent
SEARCH = "configs/search/carvana_cpu.yaml"
STARTED = time.monotonic()


def heading(text: str) -> None:
    """A line that begins a step, with the seconds since the start."""
    print(f"\n== {time.monotonic() - STARTED:4.0f} s  {text}", flush=True)


def call(*command: object, environment: Mapping[str, str]) -> None:
    """Shows a command and runs it from the repository's root; CalledProcessError when it fails."""
    words = [str(word) for word in command]
    print(f"$ {shlex.join(words)}", flush=True)
    subprocess.run([str(PROGRAMS / words[0]), *words[1:]], cwd=REPOSITORY, env=environment, check=True)


def demo(raw: Path | None, home: Home) -> None:
    """Runs every step; CalledProcessError from the first that fails."""
    # unbuffered: into a file or a pipe, too, the job's lines come while it runs
    environment = {**os.environ, "DISTSEG_HOME": str(home.root), "PYTHONUNBUFFERED": "1"}
    if raw is None:
        raw = home.root / "demo" / "carvana"
        if raw.exists():
            heading(f"Synthetic cars of an earlier demo: {raw}")
        else:
            heading("Photographing 12 synthetic cars from 16 sides")
            size = ("--groups", 12, "--views", 16, "--size", "512x512")
            call("distseg", "data", "synth", "--layout", "carvana", "--out", raw, *size, environment=environment)

    read_corpus("carvana", raw)  # says what is wrong with it before anything starts
    study = unique_name("demo")
    heading("Starting a Ray of its own")
    with running() as ray:
        print(f"dashboard while it runs: {ray.environment['RAY_API_SERVER_ADDRESS']}")
        heading("Searching for the best model")
        call(
            *("ray", "job", "submit", f"--log-color={'auto' if sys.stdout.isatty() else 'false'}"),
            *("--working-dir", ".", "--", "python", "jobs/tune_carvana.py", "--raw", raw, "--home", home.root),
            *("--study", study, "--config", SEARCH),
            environment=environment | ray.environment,
        )
    heading("The leaderboard")
    call("distseg", "leaderboard", study, environment=environment)

    folder = home.study(study)
    score = json.loads((folder / "score.json").read_text())
    heading("Done")
    print(f"Dice, mean per image, at original size: {score['dice_mean_per_image']:.4f} over {score['images']} images")
    print(f"best model:  {folder / 'best.ts'}")
    print(f"submission:  {folder / 'submission.csv'}")
    print(f"all trials:  {folder / 'trials'}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the main job end to end on a Ray of its own.")
    parser.add_argument("--raw", type=Path, metavar="DIR", help="folder in Kaggle's Carvana layout")
    raw = parser.parse_args().raw
    if raw is not None and not raw.is_dir():
        parser.error(f"--raw {raw}: no such folder; want one with train/ and train_masks/")
    for number in (signal.SIGTERM, signal.SIGHUP):  # so that the Ray is stopped then, too
        signal.signal(number, _leave)
    try:
        demo(raw and raw.resolve(), Home.from_environment(os.environ.get("DISTSEG_HOME") or str(REPOSITORY / "out")))
    except subprocess.CalledProcessError as error:
        print(f"demo: '{Path(error.cmd[0]).name}' failed with exit code {error.returncode}", file=sys.stderr)
        return error.returncode if error.returncode > 0 else 1
    except DistsegError as error:
        print(f"demo: error: {error}", file=sys.stderr)
        return error.exit_code
    except RuntimeError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        return 130
    return 0


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
