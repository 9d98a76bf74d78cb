"""A real PostgreSQL server for tests: started in a folder of its own, reached by a socket there, stopped at the end.

PostgreSQL refuses to run as root; there the server runs as the machine's unprivileged user ``postgres`` or ``nobody``.
"""

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


def programs() -> Path | None:
    """Folder of the newest PostgreSQL's programs; None when there is none on this machine."""
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    found = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = sorted(found, key=lambda path: int(re.sub(r"\D.*", "", path.parts[-3]) or 0))
    return newest[-1].parent if newest else None


@dataclass(frozen=True)
class Server:
    """A running server."""

    folder: Path
    bin: Path

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://tester@/{database}?host={self.folder}"

    def empty(self) -> str:
        """URL of its database, emptied: far quicker than one more database."""
        import psycopg

        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")
        return self.url()

    def control(self, action: str, *words: str) -> None:
        """``start``, ``stop`` or ``restart``."""
        options = f"-k {self.folder} -c listen_addresses=''"
        log = self.folder / "log"
        self._run("pg_ctl", action, "-D", str(self.folder / "data"), "-w", "-l", str(log), "-o", options, *words)

    def _run(self, program: str, *words: str) -> None:
        command = [*_as_unprivileged(), str(self.bin / program), *words]
        # output into a file: a server that inherited a pipe would keep it open
        with open(self.folder / "out", "a") as out:
            done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, cwd=self.folder)
        assert done.returncode == 0, (self.folder / "out").read_text()


@contextmanager
def serving() -> Iterator[Server]:
    """A server with a superuser ``tester`` who needs no password; ``programs`` must have found some."""
    found = programs()
    assert found is not None, "no PostgreSQL here"
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short: the path of a socket is limited to 107 characters
    server = Server(folder, found)
    try:
        if user := _unprivileged():
            os.chown(folder, user.pw_uid, user.pw_gid)
        server._run("initdb", "-D", str(folder / "data"), "-U", "tester", "-A", "trust", "--no-sync", "-E", "UTF8")
        server.control("start")
        yield server
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            server.control("stop", "-m", "immediate")
        shutil.rmtree(folder)


def _unprivileged() -> pwd.struct_passwd | None:
    """Whom to run as; None: as ourselves."""
    if os.geteuid() != 0:
        return None
    names = {user.pw_name for user in pwd.getpwall()}
    return pwd.getpwnam("postgres" if "postgres" in names else "nobody")


def _as_unprivileged() -> list[str]:
    user = _unprivileged()
    if user is None:
        return []
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
