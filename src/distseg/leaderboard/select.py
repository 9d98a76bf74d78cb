"""Which rows of a board to show. Ranks and ties stay those of the whole board."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from distseg import config
from distseg.config import RunConfig, known_paths
from distseg.errors import DistsegError, InputError
from distseg.records import CONFIG_FILE, LeaderboardRow, Status


@dataclass(frozen=True)
class Filters:
    """What a row must be like; nothing given, nothing asked."""

    statuses: tuple[Status, ...] = ()
    """One of these."""
    where: tuple[tuple[str, str], ...] = ()
    """(dotted path, word): each of these fields has this value, by an override or in the study's base config."""

    def select(self, rows: Sequence[LeaderboardRow]) -> list[LeaderboardRow]:
        """The rows that pass, in their order."""
        base_of = cache(_base)
        return [row for row in rows if self._passes(row, base_of)]

    def _passes(self, row: LeaderboardRow, base_of: Callable[[Path], RunConfig | None]) -> bool:
        if self.statuses and row.status not in self.statuses:
            return False
        return all(_has(row, path, word, base_of) for path, word in self.where)


def parse_filters(statuses: Sequence[str], where: Sequence[str]) -> Filters:
    """Filters out of the command line's words; InputError names what there is instead."""
    found = []
    for word in statuses:
        if word.upper() not in Status.__members__:
            raise InputError(f"--status: got '{word}', want one of {', '.join(Status)}")
        found.append(Status(word.upper()))
    known = known_paths(RunConfig)
    pairs = []
    for item in where:
        path, equals, word = item.partition("=")
        if not equals:
            raise InputError(f"--where: got '{item}', want key=value, e.g. model.encoder=resnet34")
        if path not in known:
            near = difflib.get_close_matches(path, known, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"known fields: {', '.join(known)}"
            raise InputError(f"--where: unknown field '{path}'; {hint}")
        pairs.append((path, word))
    return Filters(tuple(found), tuple(pairs))


def _has(row: LeaderboardRow, path: str, word: str, base_of: Callable[[Path], RunConfig | None]) -> bool:
    if path in row.overrides:
        return _is(row.overrides[path], word)
    base = base_of(Path(row.folder).parent.parent)  # STUDY/trials/ID
    if base is None or not row.architecture:  # nothing is known of a trial whose record is torn
        return False
    value: Any = base
    for name in path.split("."):
        value = getattr(value, name)
    return _is(value, word)


def _base(study_folder: Path) -> RunConfig | None:
    try:
        return config.load_run(study_folder / CONFIG_FILE)
    except DistsegError:
        return None


def _is(value: Any, word: str) -> bool:
    """Whether a word of the command line means this value: ``1e-3`` is 0.001, ``[32,16]`` a list, ``null`` None."""
    if str(value) == word:
        return True
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(word) == value
        except ValueError:
            return False
    try:
        meant = yaml.safe_load(word)
    except yaml.YAMLError:
        return False
    return bool(meant == (list(value) if isinstance(value, tuple) else value))
