"""Python and the libraries, held against what the package itself asks for."""

import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from distseg import __version__
from distseg.doctor.finding import Finding, Level, Survey

NOTABLE = ("torch", "torchvision", "ray", "numpy")
_FOR_DEVELOPERS = {"dev"}

Installed = Callable[[str], str]
"""The version of a library; raises ``metadata.PackageNotFoundError``."""


def software() -> Survey:
    """Everything of this page."""
    try:
        package = metadata.distribution("distseg").metadata
    except metadata.PackageNotFoundError:
        where = Finding(
            "distseg", f"{__version__}, not installed", Level.WARNING, "pip install . so that versions can be checked"
        )
        return Survey([where])
    requirements = [Requirement(line) for line in package.get_all("Requires-Dist") or ()]
    extras = [extra for extra in package.get_all("Provides-Extra") or () if extra not in _FOR_DEVELOPERS]
    return Survey(
        [
            Finding("distseg", __version__),
            python(".".join(map(str, sys.version_info[:3])), package["Requires-Python"]),
            *libraries(requirements, metadata.version),
            *(extra_of(name, requirements, metadata.version) for name in extras),
        ]
    )


def python(version: str, bounds: str) -> Finding:
    """The interpreter, against ``requires-python``."""
    if version in SpecifierSet(bounds):
        return Finding("Python", version)
    return Finding("Python", version, Level.ERROR, f"want {bounds}: make setup PYTHON=python3.11")


def libraries(requirements: Iterable[Requirement], installed: Installed) -> list[Finding]:
    """A line for all that are as wanted, and one for each that is not."""
    wanted = [each for each in requirements if _wanted_for("", each)]
    wrong = [_judged(each, installed, Level.ERROR) for each in wanted if not _fits(each, installed)]
    fitting = [each.name for each in wanted if _fits(each, installed)]
    notable = ", ".join(f"{name} {installed(name)}" for name in NOTABLE if name in fitting)
    return [Finding("libraries", f"{len(fitting)} of {len(wanted)} as wanted: {notable}"), *wrong]


def extra_of(name: str, requirements: Iterable[Requirement], installed: Installed) -> Finding:
    """One of the package's extras; missing as a whole when one of its libraries is."""
    own = [each for each in requirements if _wanted_for(name, each) and not _wanted_for("", each)]
    wrong = [_judged(each, installed, Level.MISSING) for each in own if not _fits(each, installed)]
    if wrong:
        value = "; ".join(f"{each.name} {each.value}" for each in wrong)
        return Finding(f"extra [{name}]", value, Level.MISSING, f"pip install 'distseg[{name}]'")
    return Finding(f"extra [{name}]", ", ".join(f"{each.name} {installed(each.name)}" for each in own))


def _wanted_for(extra: str, requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _fits(requirement: Requirement, installed: Installed) -> bool:
    try:
        # a build for one CUDA, or a nightly one, is as good as the release
        return requirement.specifier.contains(Version(installed(requirement.name)), prereleases=True)
    except metadata.PackageNotFoundError:
        return False


def _judged(requirement: Requirement, installed: Installed, level: Level) -> Finding:
    try:
        value = f"{installed(requirement.name)}, want {requirement.specifier}"
    except metadata.PackageNotFoundError:
        value = "not installed"
    return Finding(requirement.name, value, level, f"pip install '{_plain(requirement)}'")


def _plain(requirement: Requirement) -> str:
    extras: Sequence[str] = sorted(requirement.extras)
    inside = f"[{','.join(extras)}]" if extras else ""
    return f"{requirement.name}{inside}{requirement.specifier}"
