"""A connection to the store: SQLite or PostgreSQL, transactions, the store's clock, the version of its tables.

A writing transaction locks what it is about to change: all of an SQLite file at once (BEGIN IMMEDIATE), the rows
concerned in PostgreSQL (FOR UPDATE). A home's store is SQLite unless a URL is given or was left in ``queue/url``.
"""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from distseg.errors import QueueError, StoreError
from distseg.home import Home
from distseg.queue.schema import steps

PATIENCE_S = 15.0
_CLOCK = {
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "CAST(extract(epoch FROM clock_timestamp()) AS DOUBLE PRECISION)",
}
_MIGRATION_LOCK = 7_364_181  # any number of our own: PostgreSQL's advisory lock while tables are made


class Database:
    """One store. Every method raises StoreError, in one line, when the store does not answer or accept."""

    def __init__(self, url: URL, patience_s: float = PATIENCE_S, *, migrate: bool = True) -> None:
        """Connects, and brings the tables up to this program's version; see ``store_url`` for the address.

        ``patience_s``: how long to wait for a connection, and for another program that holds what is needed.
        ``migrate=False`` leaves the tables as they are, for those who only look at their version.
        """
        self.url = url
        self.dialect = url.get_backend_name()
        self._now = text(f"SELECT {_CLOCK[self.dialect]}")
        options: dict[str, Any] = {"connect_args": {"timeout": patience_s}}
        if self.dialect == "postgresql":
            limits = {
                "connect_timeout": max(2, round(patience_s)),
                "tcp_user_timeout": round(patience_s * 1000),  # a server that was cut off
                "options": f"-c lock_timeout={round(patience_s * 1000)}",
            }
            # pre_ping: a server that was restarted is connected to anew
            options = {"pool_pre_ping": True, "connect_args": limits}
        try:
            self._engine = sqlalchemy.create_engine(url, **options)
        except ModuleNotFoundError as error:
            raise QueueError(
                f"queue {self.name}: needs {error.name}; install it with: pip install 'distseg[postgres]'"
            ) from error
        if self.dialect == "sqlite":
            event.listen(self._engine, "connect", _prepare_sqlite)
            event.listen(self._engine, "begin", _begin_sqlite)
        try:
            if migrate:
                self._migrate()
        except BaseException:
            self.close()
            raise

    @property
    def name(self) -> str:
        """Its address without a password."""
        if self.dialect == "sqlite":
            return str(self.url.database)
        query = {
            key: value for key, value in self.url.query.items() if "password" not in key
        }  # libpq takes it there too
        return self.url.set(query=query).render_as_string(hide_password=True)

    @property
    def one_host(self) -> bool:
        """Only processes of one host may use it: SQLite's locks do not reach over a network file system."""
        return self.dialect == "sqlite"

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A consistent view, in a transaction that writes nothing."""
        with self._transaction(immediate=False) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that is committed at the end, or undone by any exception."""
        with self._transaction(immediate=True) as connection:
            yield connection

    def now(self, connection: Connection) -> float:
        """The store's time, seconds since 1970: the clock of every lease."""
        return float(connection.execute(self._now).scalar_one())

    def version(self) -> int:
        """Of its tables; 0 before there are any."""
        with self.reading() as connection:
            if not sqlalchemy.inspect(connection).has_table("schema_version"):
                return 0
            return int(connection.execute(text("SELECT max(version) FROM schema_version")).scalar_one())

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _transaction(self, immediate: bool) -> Iterator[Connection]:
        try:
            options: dict[str, Any] = {"distseg_immediate": immediate}
            if self.dialect == "postgresql" and not immediate:
                options["isolation_level"] = "REPEATABLE READ"
            with self._engine.connect().execution_options(**options) as connection, connection.begin():
                yield connection
        except SQLAlchemyError as error:
            raise StoreError(f"queue {self.name}: {_reason(error)}") from error

    def _migrate(self) -> None:
        wanted = steps(self.dialect)
        if self.version() == len(wanted):
            return
        with self.writing() as connection:
            if self.dialect == "postgresql":
                connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
            connection.execute(text("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER PRIMARY KEY)"))
            found = connection.execute(text("SELECT coalesce(max(version), 0) FROM schema_version")).scalar_one()
            if found > len(wanted):
                raise QueueError(
                    f"queue {self.name}: made by a newer distseg (tables of version {found}, this one knows "
                    f"{len(wanted)}); upgrade distseg"
                )
            for version, statements in enumerate(wanted[found:], start=found + 1):
                for statement in statements:
                    connection.exec_driver_sql(statement)
                connection.execute(text("INSERT INTO schema_version VALUES (:version)"), {"version": version})


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions are begun below, not by Python's own guess
    cursor = connection.cursor()
    deadline = time.monotonic() + PATIENCE_S
    while cursor.execute("PRAGMA journal_mode").fetchone() != ("wal",):  # only ever on a new file
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:  # another program makes the file; SQLite does not wait for this one lock
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("distseg_immediate")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _reason(error: SQLAlchemyError) -> str:
    """The database's own words, in one line."""
    words = str(error.orig) if isinstance(error, DBAPIError) and error.orig else str(error)
    line = " ".join(words.split()) or type(error).__name__
    hints = {"locked": "another program holds it; try again", "full": "make room on its disk"}
    hint = next((f" ({hint})" for word, hint in hints.items() if word in line), "")
    return line + hint


def store_url(home: Home, given: str | None) -> URL:
    """Address of the store: the one given, else the one left in the home, else an SQLite file in the home.

    QueueError when it is no address of SQLite or PostgreSQL.
    """
    address = given or left_url(home)
    if not address:
        home.queue.mkdir(parents=True, exist_ok=True)
        return URL.create("sqlite", database=str(home.queue / "queue.sqlite"))
    try:
        url = make_url(address)
        if url.get_backend_name() == "postgresql" and "+" not in url.drivername:
            url = url.set(drivername="postgresql+psycopg")
        known = url.get_backend_name() in _CLOCK
    except (ArgumentError, NoSuchModuleError):
        known = False
    if not known:  # the address may hold a password: it is not shown
        raise QueueError(
            "DISTSEG_QUEUE_URL: want postgresql://USER@HOST/DATABASE or sqlite:////PATH, got something else"
        )
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_absolute():
        raise QueueError(f"DISTSEG_QUEUE_URL: got {url}, want an absolute path: sqlite:////PATH")
    return url


def left_url(home: Home) -> str:
    """The address left in the home; empty where there is none."""
    left = home.queue / "url"
    return left.read_text().strip() if left.is_file() else ""


def leave_url(home: Home, url: URL) -> None:
    """Leaves the address in the home, for its owner's eyes only, where attempts and other commands find it."""
    path = home.queue / "url"
    address = url.render_as_string(hide_password=False)
    if path.is_file() and path.read_text() == address:
        return
    home.queue.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".url.{os.getpid()}.tmp")
    with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(address)
    aside.replace(path)
