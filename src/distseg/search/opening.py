"""The test groups are looked at once: a study that opened them keeps the fact beside what it saw.

Whoever changes a rule after a look at the test groups has chosen on them. So an opening is found again by the split,
whichever study made it, and a second one has to be asked for by name and is told of wherever its figures stand.
"""

from pathlib import Path

from distseg import atomic
from distseg.errors import HomeError, InputError
from distseg.home import Home
from distseg.records import Score, Value

OPENING_FILE = "test.json"


class Opening(Value):
    """``test.json`` in a study's folder."""

    split_digest: str
    """The manifest's: which groups stand where."""
    opened_at: str
    opened_before: tuple[str, ...]
    """Studies of the home that had looked at the same groups by then."""
    scores: dict[str, Score]
    """By trial id."""

    def save(self, study_folder: Path) -> None:
        """Writes the file atomically."""
        atomic.write_text(study_folder / OPENING_FILE, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, study_folder: Path) -> "Opening | None":
        """None where the study has not opened its test groups; HomeError when the file is torn."""
        path = study_folder / OPENING_FILE
        if not path.exists():
            return None
        try:
            return cls.model_validate_json(path.read_text())
        except ValueError as error:
            raise HomeError(
                f"{path}: torn or foreign; restore the file, it says who looked at the test groups"
            ) from error


def openings(home: Home, split_digest: str) -> dict[str, Opening]:
    """Every opening of a split's test groups in this home, by the study's name."""
    found = {name: Opening.load(home.study(name)) for name in home.study_names()}
    return {name: one for name, one in found.items() if one is not None and one.split_digest == split_digest}


def check_unopened(home: Home, split_digest: str) -> None:
    """InputError when a study of this home has looked at the split's test groups already."""
    for name, one in openings(home, split_digest).items():
        raise InputError(
            f"--open-test: study '{name}' opened these test groups at {one.opened_at}; its figures stand in "
            f"{home.study(name) / OPENING_FILE}; to look again all the same, say --open-test-again"
        )
