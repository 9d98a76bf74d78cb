"""Cuts out of ``requirements.lock``, which holds everything, what one image needs; hashes and markers stay as they are.

::

    python docker/requirements.py --extras app,postgres,s3 < requirements.lock        # the package and these extras
    python docker/requirements.py --only hatchling < requirements.lock                # what builds the package
    python docker/requirements.py --extras app --without-cuda < requirements.lock     # PyTorch and its CUDA left out

It reads the ``# via`` lines of the lock, and ``pyproject.toml`` of the current folder. Nothing but Python is needed.
"""

import argparse
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

PROJECT = "distseg"
CUDA = re.compile(r"torch|torchvision|triton|cuda-.*|nvidia-(?!ml-py$).*")
"""PyTorch's two packages, whose CPU builds come from elsewhere, and what only the CUDA builds need."""


@dataclass(frozen=True)
class Locked:
    """One package of the lock."""

    name: str
    text: str
    """Its lines, of each of its versions."""
    wanted_by: frozenset[str]
    """Packages that need it."""


def read(lines: Iterable[str]) -> dict[str, Locked]:
    """Packages by name; ValueError when a line belongs to none."""
    blocks: list[list[str]] = []
    for line in lines:
        if line.startswith("#") or not line.strip():
            continue
        if not line.startswith(" "):
            blocks.append([])
        elif not blocks:
            raise ValueError(f"requirements.lock: got {line.rstrip()!r} before any package")
        blocks[-1].append(line)
    packages: dict[str, Locked] = {}
    for each in map(_locked, blocks):
        before = packages.get(each.name)  # another version, for another Python
        packages[each.name] = (
            Locked(each.name, before.text + each.text, before.wanted_by | each.wanted_by) if before else each
        )
    return packages


def needed(packages: Mapping[str, Locked], roots: Iterable[str]) -> set[str]:
    """Names of ``roots`` and of everything that they need; ValueError when one of them is not locked."""
    found = {_normal(root) for root in roots}
    if missing := sorted(found - packages.keys()):
        raise ValueError(f"requirements.lock: does not hold {', '.join(missing)}; run 'make lock'")
    while more := {name for name, each in packages.items() if each.wanted_by & found} - found:
        found |= more
    return found


def roots(project: Mapping[str, object], extras: Iterable[str]) -> list[str]:
    """Names of the direct dependencies of ``pyproject.toml``'s project table with these extras."""
    declared: list[str] = list(project["dependencies"])  # type: ignore[call-overload]
    optional: Mapping[str, list[str]] = project["optional-dependencies"]  # type: ignore[assignment]
    for extra in extras:
        if extra not in optional:
            raise ValueError(f"--extras: got '{extra}', want some of {', '.join(sorted(optional))}")
        declared += optional[extra]
    return [re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0] for requirement in declared]


def _locked(block: list[str]) -> Locked:
    name = re.split(r"[=\[ ]", block[0], maxsplit=1)[0]
    comments = [line.strip().removeprefix("#").strip() for line in block if line.lstrip().startswith("#")]
    parents = {comment.removeprefix("via").strip().split(" ")[0] for comment in comments} - {"", PROJECT}
    return Locked(_normal(name), "".join(block), frozenset(map(_normal, parents)))


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    parser = argparse.ArgumentParser(description="Cut requirements.lock down to what one image needs.")
    parser.add_argument("--extras", default="", help="of the package, separated by commas")
    parser.add_argument("--only", default="", help="these packages and what they need, instead of the package's")
    parser.add_argument("--without-cuda", action="store_true")
    arguments = parser.parse_args()
    try:
        packages = read(sys.stdin)
        project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
        extras = [extra for extra in arguments.extras.split(",") if extra]
        wanted = needed(packages, arguments.only.split(",") if arguments.only else roots(project, extras))
    except ValueError as error:
        sys.exit(str(error))
    if arguments.without_cuda:
        wanted = {name for name in wanted if not CUDA.fullmatch(name)}
    sys.stdout.writelines(packages[name].text for name in sorted(wanted))


if __name__ == "__main__":
    main()
