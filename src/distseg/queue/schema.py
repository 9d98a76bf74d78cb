"""The store's tables as numbered steps, each applied once and never edited afterwards; rules that the store enforces.

A new version of the program adds a step. A store of a newer program is refused rather than guessed at.
"""

from collections.abc import Iterable, Mapping
from typing import TypeVar

from distseg.queue.states import ATTEMPT_TRANSITIONS, JOB_TRANSITIONS, LIVE, OVER, AttemptState, JobState

_State = TypeVar("_State", JobState, AttemptState)


def steps(dialect: str) -> tuple[tuple[str, ...], ...]:
    """For each version of the schema, from 1, the statements that lead to it from the one before."""
    return (_tables(dialect), _rules(dialect))


def _words(states: Iterable[str]) -> str:
    return ", ".join(f"'{state}'" for state in sorted(states))


def _tables(dialect: str) -> tuple[str, ...]:
    postgres = dialect == "postgresql"
    number = "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY" if postgres else "INTEGER PRIMARY KEY AUTOINCREMENT"
    real = "DOUBLE PRECISION" if postgres else "REAL"
    live = _words(LIVE)
    return (
        f"""CREATE TABLE jobs (
            seq {number},
            id TEXT NOT NULL UNIQUE,
            name TEXT NOT NULL,
            owner TEXT NOT NULL,
            command TEXT NOT NULL,
            working_dir TEXT,
            priority INTEGER NOT NULL,
            gpus {real} NOT NULL CHECK (gpus >= 0),
            cpus {real} NOT NULL CHECK (cpus >= 0),
            workers INTEGER NOT NULL CHECK (workers >= 1),
            alone INTEGER NOT NULL CHECK (alone IN (0, 1)),
            retries INTEGER NOT NULL CHECK (retries >= 0),
            timeout_s {real} CHECK (timeout_s > 0),
            state TEXT NOT NULL CHECK (state IN ({_words(JobState)})),
            reason TEXT,
            attempt INTEGER NOT NULL DEFAULT 0 CHECK (attempt >= 0),
            failures INTEGER NOT NULL DEFAULT 0 CHECK (failures >= 0),
            losses INTEGER NOT NULL DEFAULT 0 CHECK (losses >= 0),
            not_before {real} NOT NULL DEFAULT 0,
            submitted_at {real} NOT NULL,
            started_at {real},
            finished_at {real},
            CHECK (gpus > 0 OR cpus > 0),
            CHECK ((finished_at IS NOT NULL) = (state IN ({_words(OVER)})))
        )""",
        "CREATE INDEX jobs_by_state ON jobs (state)",
        "CREATE INDEX jobs_by_name ON jobs (name)",
        """CREATE TABLE dependencies (
            job_id TEXT NOT NULL REFERENCES jobs (id),
            on_id TEXT NOT NULL REFERENCES jobs (id),
            needs TEXT NOT NULL CHECK (needs IN ('success', 'end')),
            PRIMARY KEY (job_id, on_id),
            CHECK (job_id <> on_id)
        )""",
        "CREATE INDEX dependencies_by_parent ON dependencies (on_id)",
        f"""CREATE TABLE attempts (
            job_id TEXT NOT NULL REFERENCES jobs (id),
            number INTEGER NOT NULL CHECK (number >= 1),
            state TEXT NOT NULL CHECK (state IN ({_words(AttemptState)})),
            placement TEXT NOT NULL,
            lease_s {real} NOT NULL CHECK (lease_s > 0),
            grace_s {real} NOT NULL CHECK (grace_s >= 0),
            lease_until {real} NOT NULL,
            renewals INTEGER NOT NULL DEFAULT 0,
            stop TEXT CHECK (stop IN ('CANCELLED', 'LOST', 'PREEMPTED', 'TIMED_OUT')),
            stop_at {real},
            claimed_at {real} NOT NULL,
            launched_at {real},
            running_at {real},
            finished_at {real},
            exit_code INTEGER,
            reason TEXT,
            host TEXT,
            PRIMARY KEY (job_id, number),
            CHECK ((finished_at IS NULL) = (state IN ({live}))),
            CHECK ((stop IS NULL) = (stop_at IS NULL))
        )""",
        f"CREATE UNIQUE INDEX one_live_attempt ON attempts (job_id) WHERE state IN ({live})",
        f"CREATE INDEX live_attempts ON attempts (claimed_at) WHERE state IN ({live})",
        f"""CREATE TABLE events (
            id {number},
            at {real} NOT NULL,
            job_id TEXT REFERENCES jobs (id),
            attempt INTEGER,
            kind TEXT NOT NULL,
            text TEXT NOT NULL
        )""",
        "CREATE INDEX events_by_job ON events (job_id)",
        f"""CREATE TABLE leadership (
            one INTEGER PRIMARY KEY CHECK (one = 1),
            holder TEXT NOT NULL,
            epoch INTEGER NOT NULL,
            lease_until {real} NOT NULL
        )""",
        "INSERT INTO leadership VALUES (1, '', 0, 0)",
        f"""CREATE TABLE cluster (
            one INTEGER PRIMARY KEY CHECK (one = 1),
            nodes TEXT NOT NULL,
            max_per_owner INTEGER,
            preempt INTEGER NOT NULL,
            seen_at {real}
        )""",
        "INSERT INTO cluster VALUES (1, '[]', NULL, 0, NULL)",
    )


def _rules(dialect: str) -> tuple[str, ...]:
    """Triggers: events are never changed, and a state follows only those that may go before it."""
    refused = {
        "events_stay": ("UPDATE OR DELETE", "events", "TRUE", "events are never changed"),
        "jobs_follow": (
            "UPDATE",
            "jobs",
            f"NEW.state <> OLD.state AND NOT ({_allowed(JOB_TRANSITIONS)})",
            "a job in this state cannot go to that one",
        ),
        "attempts_follow": (
            "UPDATE",
            "attempts",
            f"NEW.state <> OLD.state AND NOT ({_allowed(ATTEMPT_TRANSITIONS)})",
            "an attempt in this state cannot go to that one",
        ),
    }
    statements = []
    for name, (actions, table, condition, message) in refused.items():
        if dialect == "postgresql":
            statements += [
                f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS "
                f"$$ BEGIN IF {condition} THEN RAISE EXCEPTION '{message}'; END IF; RETURN NEW; END $$",
                f"CREATE TRIGGER {name} BEFORE {actions} ON {table} FOR EACH ROW EXECUTE FUNCTION {name}()",
            ]
        else:
            statements += [
                f"CREATE TRIGGER {name}_{action.lower()} BEFORE {action} ON {table} WHEN {condition} "
                f"BEGIN SELECT RAISE(ABORT, '{message}'); END"
                for action in actions.split(" OR ")
            ]
    return tuple(statements)


def _allowed(transitions: Mapping[_State, Iterable[_State]]) -> str:
    return " OR ".join(
        f"(OLD.state = '{before}' AND NEW.state IN ({_words(after)}))" for before, after in transitions.items() if after
    )
