"""From exported models and a folder of images to the csv file that Kaggle takes.

It goes on where an interrupted run was, and appears complete or not at all. Memory depends on the size of the images,
not on their number.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distseg import checkpoint
from distseg.atomic import replacing
from distseg.data import rle
from distseg.errors import DataError, InputError
from distseg.predict.decode import Unreadable
from distseg.predict.inputs import Job
from distseg.predict.pipeline import CHUNK, Answer, Finish, Run
from distseg.predict.row_format import RowFormat, read_rows, row_bytes
from distseg.predict.segmenter import Recipe
from distseg.predict.unfinished import Runs, Unfinished

Order = npt.NDArray[np.int64]
"""(rows, 2): image, and place among the image's rows."""

_NAMES_SHOWN = 5


@dataclass(frozen=True)
class EncodeRows(Finish[Runs]):
    """Labels to run lengths, a text for each row of the image."""

    format: RowFormat

    def __call__(self, answer: Answer) -> Runs:
        order, first = self.format.order, self.format.first
        return tuple(
            rle.encode(np.equal(answer.labels, label), order=order, first=first) for label in self.format.labels
        )


def identity_of(recipe: Recipe, format: RowFormat) -> dict[str, Any]:
    """What makes two submissions of the same images the same: files and options, not where it is computed."""
    return {
        "models": [checkpoint.sha256(path) for path in recipe.models],
        "tta": recipe.tta,
        "tile": recipe.tile,
        "format": format.model_dump(mode="json"),
    }


def write_submission(
    encode: Run[Runs],
    images: Sequence[Path],
    out: Path,
    *,
    format: RowFormat | None = None,
    identity: Mapping[str, Any] | None = None,
    sample: Path | None = None,
    empty_if_unreadable: bool = False,
    progress: Callable[[int, int], None] | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> int:
    """Writes the rows of every image and returns how many rows there are.

    With ``sample`` (Kaggle's sample_submission.csv) the rows are exactly its ids in its order, else those of ``images``
    in theirs. ``progress`` is called with (images done, images to do). ``tell`` hears in one line of an unfinished
    submission that is continued, or that is not, and of every image for which an empty mask was written, by an earlier
    run too.

    An image that cannot be read ends no run: all others are worked on and kept, then DataError names it, and the next
    run works on its chunk alone; or, with ``empty_if_unreadable``, its masks are empty.

    DataError also when ``sample`` and ``images`` do not name the same rows, and when two images share a row. InputError
    when ``out`` is a folder.
    """
    if out.is_dir():
        raise InputError(f"--out {out}: is a folder; give the path of a file, such as {out / 'submission.csv'}")
    format = (format or RowFormat()).checked()
    jobs, order = _arranged(images, sample, format)
    chunks = [jobs[first : first + CHUNK] for first in range(0, len(jobs), CHUNK)]
    names = hashlib.sha256("\n".join(job.name for job in jobs).encode()).hexdigest()
    identity = {**(identity or {}), "images": names}
    with Unfinished(out, identity, chunks, empty_if_unreadable=empty_if_unreadable) as unfinished:
        todo = unfinished.missing
        if unfinished.begun_anew:
            tell(f"{out}: an unfinished one of other models, options or images was there; begun anew")
        elif len(todo) < len(chunks):
            tell(f"{out}: goes on, {len(jobs) - sum(len(chunks[number]) for number in todo)} of {len(jobs)} are there")
        left_out = _encode_chunks(encode, unfinished, chunks, todo, empty_if_unreadable, format, progress)
        if left_out:
            raise DataError(
                f"{out}: not written, {len(left_out)} of {len(jobs)} images cannot be read: {_some(left_out)}; "
                "mend them and run again (the others are kept), or give --unreadable empty"
            )
        for reason in unfinished.unreadable:
            tell(f"{reason}; its mask is empty")
        rows = _write(out, unfinished, format, order)
        unfinished.remove()
    return rows


def _encode_chunks(
    encode: Run[Runs],
    unfinished: Unfinished,
    chunks: Sequence[Sequence[Job]],
    todo: Sequence[int],
    empty_if_unreadable: bool,
    format: RowFormat,
    progress: Callable[[int, int], None] | None,
) -> list[str]:
    """Adds the missing chunks, less those with an unreadable image whose mask may not be empty; says why of these."""
    jobs = list(chain.from_iterable(chunks[number] for number in todo))
    empty = ("",) * len(format.labels)
    results, done, left_out = encode(jobs), 0, []
    for number in todo:
        found = list(islice(results, len(chunks[number])))
        unreadable = [result.reason for result in found if isinstance(result, Unreadable)]
        if unreadable and not empty_if_unreadable:
            left_out += unreadable
        else:
            rows = [empty if isinstance(result, Unreadable) else result for result in found]
            unfinished.add(number, rows, unreadable)
        done += len(found)
        if progress is not None:
            progress(done, len(jobs))
    return left_out


def _write(out: Path, unfinished: Unfinished, format: RowFormat, order: Order | None) -> int:
    """Header and rows: as the images come, or in ``order``."""
    count = 0
    with replacing(out) as file:
        file.write(row_bytes(*format.columns))
        for job, runs in unfinished.rows() if order is None else ():
            for row_id, text in zip(format.row_ids(job.name), runs, strict=True):
                file.write(row_bytes(row_id, text))
                count += 1
        for image, place in order if order is not None else ():
            job, runs = unfinished.row(int(image))
            file.write(row_bytes(format.id_of(job.name, format.labels[place]), runs[place]))
            count += 1
    return count


def _arranged(images: Sequence[Path], sample: Path | None, format: RowFormat) -> tuple[list[Job], Order | None]:
    """The images in the order of their first rows, and the order of the rows where that does not say it.

    DataError unless the rows of the images are exactly those of the sample.
    """
    repeated = [name for name, times in Counter(path.name for path in images).items() if times > 1]
    if repeated:
        raise DataError(f"images: {_some(repeated)} given more than once; a submission has one row a file name")
    if not images:
        raise DataError("images: none given, want at least one")
    jobs = [Job(path, path.name) for path in images]
    made: dict[str, tuple[int, int]] = {}  # row id -> (image, place among its rows)
    for number, job in enumerate(jobs):
        for place, row_id in enumerate(format.row_ids(job.name)):
            if row_id in made:
                raise DataError(f"images: {jobs[made[row_id][0]].name} and {job.name} share the row '{row_id}'")
            made[row_id] = (number, place)
    if sample is None:
        return jobs, None
    wanted = [row_id for row_id, _ in read_rows(sample, format.columns)]
    if missing := [row_id for row_id in wanted if row_id not in made]:
        raise DataError(f"{sample}: {_some(missing)} not among the {len(made)} images; add the files to the folder")
    if extra := sorted(made.keys() - set(wanted)):
        raise DataError(f"{sample}: has no row for {_some(extra)}; take these files out of the folder")
    places = list(dict.fromkeys(made[row_id][0] for row_id in wanted))
    rank = {number: place for place, number in enumerate(places)}
    order = np.array([(rank[made[row_id][0]], made[row_id][1]) for row_id in wanted])
    in_turn = np.array([(place, each) for place in range(len(places)) for each in range(len(format.labels))])
    return [jobs[number] for number in places], None if np.array_equal(order, in_turn) else order


def _some(names: Sequence[str]) -> str:
    """``a.jpg, b.jpg and 3 more``."""
    rest = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
