"""Raw files to shards, as a person asks for it: audited first, packed when the audit finds no error."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from distseg.data.appearing import check_out
from distseg.data.audit import audit_scan
from distseg.data.crew import Elsewhere, Progress, crew
from distseg.data.findings import by_code
from distseg.data.layouts import scan_corpus
from distseg.data.layouts.base import LayoutOptions
from distseg.data.manifest import Manifest
from distseg.data.pack import MaskChoice, check_pack, pack
from distseg.errors import DataError

ShowProgress = Callable[[str], AbstractContextManager[Progress | None]]
"""Label -> what is called with (steps done, steps in all) while it lasts, if anything is."""


@dataclass(frozen=True)
class PackJob:
    """What to pack, and how; see `distseg.data.pack.pack`."""

    layout: str
    source: Path
    options: LayoutOptions
    out: Path
    size: tuple[int, int] | None
    val_fraction: float = 0.2
    test_fraction: float = 0.0
    given_split: bool = False
    folds: int | None = None
    seed: int = 0
    mask_encoding: MaskChoice = "png"
    workers: int = 1


def pack_raw(
    job: PackJob, elsewhere: Elsewhere | None, show_progress: ShowProgress, warn: Callable[[str], None]
) -> Manifest:
    """Audits, then packs; ``warn`` takes a line for each kind of warning.

    ``job.workers`` processes do both, or ``elsewhere`` does. DataError, and nothing written, when the job cannot be
    done with these files (said before any is decoded), when the audit finds an error, or as `pack` does.
    """
    check_out(job.out)
    scan = scan_corpus(job.layout, job.source, job.options)
    if not any(found.severity == "error" for found in scan.findings):  # else the audit tells of what is missing
        check_pack(
            scan.corpus,
            val_fraction=job.val_fraction,
            test_fraction=job.test_fraction,
            given_split=job.given_split,
            folds=job.folds,
            mask_encoding=job.mask_encoding,
        )
    with crew(job.workers, elsewhere) as helpers:
        with show_progress("auditing") as progress:
            report = audit_scan(scan, job.source, progress, helpers)
        for first, *others in by_code(report.warnings):
            warn(f"warning {first.code}: {first.line}{_more(len(others))}")
        if report.errors:
            raise DataError(
                f"{report.errors[0].line}{_more(len(report.errors) - 1)}; nothing was packed: see all errors with "
                f"'distseg data audit {job.source} --layout {job.layout}'"
            )
        with show_progress("packing") as progress:
            return pack(
                scan.complete(),
                job.out,
                size=job.size,
                val_fraction=job.val_fraction,
                test_fraction=job.test_fraction,
                given_split=job.given_split,
                folds=job.folds,
                seed=job.seed,
                elsewhere=helpers,
                mask_encoding=job.mask_encoding,
                progress=progress,
            )


def _more(number: int) -> str:
    return f" (and {number} more)" if number else ""
