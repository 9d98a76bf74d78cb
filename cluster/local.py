"""One Ray on this machine, beside any other Ray: own ports, own folder, own token; one node or several.

::

    eval "$(python cluster/local.py start)"    # exports the addresses and the token's path
    ray job submit --working-dir . -- python jobs/tune_carvana.py ...
    python cluster/local.py stop "$DISTSEG_LOCAL_RAY_DIR"

    python cluster/local.py start --nodes 3 --cpus 2 --gpus 4    # each node declares these, whatever the machine has

``ray stop`` would end every Ray of the machine. Here each process of one Ray inherits a mark in its environment, and
``stop`` ends those that carry it.
"""

import argparse
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

MARK = "DISTSEG_LOCAL_RAY_MARK"
FOLDER_CHARACTERS_MAX = 38
"""Ray adds up to 69 characters for the path of a socket, which Linux limits to 107."""
PORTS = "ports.json"
GRACE_S = 5.0
"""From SIGTERM to SIGKILL."""

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # A driver's environment does not reach its trials: what speeds up Train is set when the cluster starts.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # reports arrive at most once an interval; short epochs crawl at 2 s
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    # Ray renames its workers; without this the new name is written over their environment, and with it the mark.
    "SPT_NOENV": "1",
}


@dataclass(frozen=True)
class LocalRay:
    """A running Ray of this machine."""

    folder: Path
    """Holds the token, the sessions and their logs, closed to other users; removed by ``stop``."""
    port: int
    dashboard_port: int

    @classmethod
    def of(cls, folder: Path) -> "LocalRay":
        """The one that ``start`` left in ``folder``; OSError when there is none."""
        return cls(folder, **json.loads((folder / PORTS).read_text()))

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in order to use this Ray, by ``ray job submit`` as well as by ``ray.init``."""
        return {
            "RAY_ADDRESS": f"127.0.0.1:{self.port}",
            "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{self.dashboard_port}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(_token_path(self.folder)),
        }


def start(nodes: int = 1, cpus: int | None = None, gpus: int | None = None) -> LocalRay:
    """Starts a head with its dashboard, and ``nodes - 1`` further nodes; all answer on return.

    ``cpus`` and ``gpus``: what each node declares (None: what this machine has). RuntimeError with Ray's words when it
    cannot.
    """
    if not (_programs() / "ray").is_file():
        raise RuntimeError(
            f"{_programs()}: no 'ray' beside this Python; use that of the environment that holds distseg"
        )
    folder = _new_folder()
    port, dashboard, client = _free_ports(3)
    token = _token_path(folder)
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment.pop("OMP_NUM_THREADS", None)
    environment |= SETTINGS | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), MARK: str(folder)}
    # Jobs run `python` from the path of the cluster that runs them.
    environment["PATH"] = f"{_programs()}{os.pathsep}{environment.get('PATH', os.defpath)}"
    (folder / PORTS).write_text(json.dumps({"port": port, "dashboard_port": dashboard}))
    size = [f"--num-{name}={count}" for name, count in (("cpus", cpus), ("gpus", gpus)) if count is not None]
    head = [
        *("--head", f"--temp-dir={folder}/ray", f"--port={port}", f"--ray-client-server-port={client}"),
        *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
    ]
    try:
        _ray_start([*head, *size], environment)
        for _ in range(nodes - 1):
            _ray_start([f"--address=127.0.0.1:{port}", *size], environment)
    except BaseException:
        stop(folder)
        raise
    return LocalRay(folder, port, dashboard)


def _ray_start(options: list[str], environment: dict[str, str]) -> None:
    agent, agent_grpc, runtime_env, metrics = _free_ports(4)
    own = [
        *(f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={agent_grpc}"),
        *(f"--runtime-env-agent-port={runtime_env}", f"--metrics-export-port={metrics}"),
        *("--min-worker-port=0", "--max-worker-port=0", "--log-color=false"),
    ]
    done = subprocess.run(
        [str(_programs() / "ray"), "start", *options, *own],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is for whoever started it, who then stops it
    )
    if done.returncode:
        raise RuntimeError(f"Ray did not start:\n{done.stdout}")


def status(folder: Path) -> list[str]:
    """A line a node: its id, whether it is the head, and what it declares. Whatever Ray raises when it is gone."""
    ray = LocalRay.of(folder)
    os.environ |= ray.environment
    from ray.util.state import list_nodes

    nodes = list_nodes(address=ray.environment["RAY_API_SERVER_ADDRESS"], detail=True, raise_on_missing_output=False)
    lines = []
    for node in sorted(nodes, key=lambda node: not node.is_head_node):
        total = {name: node.resources_total.get(name, 0.0) for name in ("CPU", "GPU")}
        size = ", ".join(f"{count:g} {name}" for name, count in total.items())
        lines.append(f"{node.node_id[:12]}  {node.state:5}  {'head' if node.is_head_node else 'node'}  {size}")
    return lines


def stop(folder: Path) -> None:
    """Ends all processes of the Ray that lives in ``folder``, waits until they are gone, and removes the folder."""
    deadline = time.monotonic() + GRACE_S
    told: set[int] = set()
    while pids := _marked(folder):
        late = time.monotonic() > deadline
        for pid in pids if late else pids - told:
            try:
                os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
            except ProcessLookupError:
                continue  # gone between the look and the signal
        told |= pids
        time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running(nodes: int = 1, cpus: int | None = None, gpus: int | None = None) -> Iterator[LocalRay]:
    """``start`` for the length of a ``with`` block, stopped however the block ends."""
    ray = start(nodes, cpus, gpus)
    try:
        yield ray
    finally:
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        # a second Ctrl-C would leave the rest of it running
        handlers = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
        stop(ray.folder)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _marked(folder: Path) -> set[int]:
    """Process ids that carry this Ray's mark; zombies, whose environment is empty, are left out."""
    wanted = f"{MARK}={folder}".encode()
    found = set()
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if wanted in environment.read_bytes().split(b"\0"):
                found.add(int(environment.parent.name))
        except OSError:
            continue  # ended meanwhile, or somebody else's
    return found - {os.getpid()}


def _new_folder() -> Path:
    parent = tempfile.gettempdir()
    if len(parent) + len("/ray-12345678") > FOLDER_CHARACTERS_MAX:
        parent = "/tmp"
    return Path(tempfile.mkdtemp(prefix="ray-", dir=parent))


def _free_ports(count: int) -> list[int]:
    """Ports that nothing listens on, held together so that they differ."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("", 0))
        return [each.getsockname()[1] for each in sockets]


def _programs() -> Path:
    """Where this environment keeps ``ray`` and ``python``."""
    return Path(sys.executable).parent


def _token_path(folder: Path) -> Path:
    return folder / "auth_token"


def main() -> None:
    parser = argparse.ArgumentParser(description="Start or stop one Ray on this machine, beside any other.")
    commands = parser.add_subparsers(dest="command", required=True)
    starting = commands.add_parser("start", help="start a Ray; prints the lines to export")
    starting.add_argument("--nodes", type=int, default=1, metavar="N", help="simulated nodes (default: 1)")
    starting.add_argument("--cpus", type=int, metavar="C", help="CPUs of each node (default: the machine's)")
    starting.add_argument("--gpus", type=int, metavar="G", help="GPUs of each node (default: the machine's)")
    for name, meaning in (
        ("status", "list the nodes of the Ray of that folder"),
        ("stop", "stop the Ray of that folder, and no other"),
    ):
        commands.add_parser(name, help=meaning).add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.command != "start":
        if not (arguments.folder / PORTS).is_file():
            parser.error(f"{arguments.folder}: not the folder of a local Ray; want what 'start' printed")
        if arguments.command == "stop":
            stop(arguments.folder)
        else:
            print("\n".join(status(arguments.folder)))
        return
    for name, least in (("nodes", 1), ("cpus", 0), ("gpus", 0)):
        count = getattr(arguments, name)
        if count is not None and count < least:
            parser.error(f"--{name}: got {count}, want at least {least}")
    try:
        ray = start(arguments.nodes, arguments.cpus, arguments.gpus)
    except RuntimeError as error:
        sys.exit(str(error))
    for name, value in (ray.environment | {"DISTSEG_LOCAL_RAY_DIR": str(ray.folder)}).items():
        print(f"export {name}={value}")
    print(f"dashboard: {ray.environment['RAY_API_SERVER_ADDRESS']}", file=sys.stderr)
    print(f"stop with: python cluster/local.py stop {ray.folder}", file=sys.stderr)


if __name__ == "__main__":
    main()
