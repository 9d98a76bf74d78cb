"""Hosts with addresses of their own on one machine: network namespaces around a switch whose cables can be pulled.

Each host has its own address, host name, ports and folder for Ray; all see the machine's files, as over a shared home.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

HEAD_PORT = 6379
_AS_HOST = (
    'echo {name} > /proc/sys/kernel/hostname; mount --bind {folder}/hosts /etc/hosts; {own_folder}cd /; exec "$@"'
)


def reason_to_skip() -> str | None:
    """Why this machine cannot have such hosts; None when it can."""
    if os.geteuid() != 0:
        return "network namespaces take root"
    missing = [program for program in ("ip", "unshare", "mount") if shutil.which(program) is None]
    if missing:
        return f"no program {', '.join(missing)} (iproute2, util-linux)"
    tried = subprocess.run(["unshare", "--net", "--uts", "--mount", "true"], capture_output=True, text=True)
    return f"no namespaces here: {tried.stderr.strip()}" if tried.returncode else None


@dataclass(frozen=True)
class Host:
    """One namespace."""

    name: str
    number: int
    namespace: str
    switch: str
    folder: Path

    @property
    def address(self) -> str:
        return f"10.77.0.{self.number}"

    @property
    def port(self) -> str:
        """Its end at the switch; at most 15 characters."""
        return f"to-{self.name}"

    def command(self, *words: str) -> list[str]:
        """The command line that runs a command on this host."""
        # Ray's folder lies on each host's own disk; the first host's is the machine's, for its drivers to see
        own_folder = "" if self.number == 1 else f"mount -t tmpfs none {self.folder}/ray; "
        script = _AS_HOST.format(name=self.name, folder=self.folder, own_folder=own_folder)
        namespaces = ["ip", "netns", "exec", self.namespace, "unshare", "--mount", "--uts"]
        return [*namespaces, "sh", "-ec", script, "sh", *words]

    def pull_the_cable(self) -> None:
        """Nothing leaves or reaches it any more; nobody is told."""
        _ip("-n", self.switch, "link", "set", self.port, "down")

    def plug_the_cable(self) -> None:
        _ip("-n", self.switch, "link", "set", self.port, "up")

    def processes(self) -> list[int]:
        return [int(pid) for pid in _ip("netns", "pids", self.namespace).split()]

    def kill_all(self) -> None:
        """SIGKILL for everything on it; returns when all is gone."""
        while pids := self.processes():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)


@contextmanager
def hosts(*names: str) -> Iterator[list[Host]]:
    """So many hosts, all connected; everything that runs on them is killed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="net-", dir="/tmp"))  # short: paths of sockets are limited
    (folder / "ray").mkdir()
    switch = f"{folder.name}-switch"
    made = [Host(name, number, f"{folder.name}-{name}", switch, folder) for number, name in enumerate(names, start=1)]
    lines = ["127.0.0.1 localhost", *(f"{host.address} {host.name}" for host in made)]
    (folder / "hosts").write_text("\n".join(lines) + "\n")
    try:
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "name", "switch", "type", "bridge")
        _ip("-n", switch, "link", "set", "switch", "up")
        for host in made:
            _connect(host)
        yield made
    finally:
        for host in made:
            with suppress(subprocess.CalledProcessError):  # not made
                host.kill_all()
        for namespace in (*(host.namespace for host in made), switch):
            subprocess.run(["ip", "netns", "delete", namespace], capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


def _connect(host: Host) -> None:
    inside = ("-n", host.namespace)
    _ip("netns", "add", host.namespace)
    _ip("-n", host.switch, "link", "add", host.port, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
    _ip("-n", host.switch, "link", "set", host.port, "master", "switch", "up")
    _ip(*inside, "address", "add", f"{host.address}/24", "dev", "eth0")
    _ip(*inside, "link", "set", "lo", "up")
    _ip(*inside, "link", "set", "eth0", "up")
    # Ray asks which address leads to the world
    _ip(*inside, "route", "add", "default", "via", "10.77.0.254", "dev", "eth0")


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, stdout=subprocess.PIPE, text=True).stdout
