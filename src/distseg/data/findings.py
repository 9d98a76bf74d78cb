"""What is wrong with a raw data set, or worth knowing: each finding names its file and its remedy."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from distseg.errors import DataError
from distseg.records import Value

Severity = Literal["error", "warning", "note"]
"""``error``: cannot be packed. ``warning``: can be, but is seldom meant. ``note``: good to know."""

_RANK: dict[Severity, int] = {"error": 0, "warning": 1, "note": 2}

SUMMARY_COLUMNS = ("severity", "code", "found", "in", "what (the first)", "remedy")


class Finding(Value):
    """One thing found in one file."""

    severity: Severity
    code: str
    """Short and stable, such as ``mask-rgb``: findings of one kind have one code."""
    file: str
    message: str
    remedy: str

    @property
    def line(self) -> str:
        """``file: message; remedy``."""
        return f"{self.file}: {self.message}; {self.remedy}"


class FindingError(DataError):
    """A DataError that knows what was found."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding)  # as it is, so that the error can be pickled
        self.finding = finding

    def __str__(self) -> str:
        return self.finding.line


def error(code: str, file: Path | str, message: str, remedy: str) -> Finding:
    return Finding(severity="error", code=code, file=str(file), message=message, remedy=remedy)


def warning(code: str, file: Path | str, message: str, remedy: str) -> Finding:
    return Finding(severity="warning", code=code, file=str(file), message=message, remedy=remedy)


def note(code: str, file: Path | str, message: str, remedy: str) -> Finding:
    return Finding(severity="note", code=code, file=str(file), message=message, remedy=remedy)


def unreadable_image(path: Path, reason: str) -> Finding:
    """``reason`` as in BadSampleError, without the file's name."""
    return error("unreadable-image", path, reason, "save or copy the file again, or remove it and its labels")


def ranked(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Each finding once; errors first, then by code and file."""
    return tuple(sorted(dict.fromkeys(findings), key=lambda found: (_RANK[found.severity], found.code, found.file)))


def summary(findings: Iterable[Finding]) -> list[tuple[str, str, int, str, str, str]]:
    """A row of SUMMARY_COLUMNS for each code: how many there are, the first files, the first message."""
    rows: list[tuple[str, str, int, str, str, str]] = []
    for group in by_code(findings):
        names = list(dict.fromkeys(Path(found.file).name for found in group))
        named = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        first = group[0]
        rows.append((first.severity, first.code, len(group), named, first.message, first.remedy))
    return rows


def by_code(findings: Iterable[Finding]) -> list[list[Finding]]:
    """Findings of one severity and code together, in the order of their first."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for found in findings:
        groups.setdefault((found.severity, found.code), []).append(found)
    return list(groups.values())
