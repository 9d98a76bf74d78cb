"""What all make-believe data sets share: the same rules for what is asked."""

from pathlib import Path

from distseg.errors import InputError

_MIN_SIDE_PX = 64


def check(out: Path, *, groups: int, views: int, size: tuple[int, int], seed: int, fewest_groups: int = 1) -> None:
    """InputError when `out` holds anything or a number is too small; `size` is width and height in pixels."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists already; wanted a new or an empty folder; name another one or remove it")
    if groups < fewest_groups:
        raise InputError(f"groups: got {groups}, wanted at least {fewest_groups}; ask for more")
    if views < 1:
        raise InputError(f"views: got {views}, wanted at least 1; ask for more")
    if min(size) < _MIN_SIDE_PX:
        smallest = f"{_MIN_SIDE_PX}x{_MIN_SIDE_PX}"
        raise InputError(f"size: got {size[0]}x{size[1]}, wanted at least {smallest} pixels; ask for larger pictures")
    if seed < 0:
        raise InputError(f"seed: got {seed}, wanted 0 or more; drop the sign")
