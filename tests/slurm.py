"""Slurm as programs of this machine: ``srun`` runs its command here, ``scontrol`` writes down what it is told."""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[1] / "cluster" / "slurm.sh"

_SRUN = """
output=/dev/stdout
while [[ $1 == -* ]]; do
    echo "srun $1" >>"$SLURM_FAKE/calls"
    case $1 in
    --nodelist=*) host=${1#*=} ;;
    --exclude=*) host=$(grep -v "^${1#*=}$" "$SLURM_FAKE/hosts" | head -n 1) ;;
    --output=*) output=${1#*=} ;;
    esac
    shift
done
echo "srun ${host:-all} $*" >>"$SLURM_FAKE/calls"
echo $$ >>"$SLURM_FAKE/pids"
exec "$@" >"${output//%N/${host:-all}}" 2>&1
"""
_SCONTROL = """
if [[ $1 == show ]]; then cat "$SLURM_FAKE/hosts"; else echo "scontrol $*" >>"$SLURM_FAKE/calls"; fi
"""


@dataclass(frozen=True)
class FakeSlurm:
    """An allocation of two hosts, both of which are this machine."""

    folder: Path
    job_id: int

    @classmethod
    def allocate(cls, folder: Path, **programs: str) -> "FakeSlurm":
        """``programs``: further ones, name and body in bash, found before those of the machine."""
        (folder / "bin").mkdir(parents=True)
        (folder / "hosts").write_text("node-a\nnode-b\n")
        for name, body in {"srun": _SRUN, "scontrol": _SCONTROL, **programs}.items():
            path = folder / "bin" / name
            path.write_text(f"#!/usr/bin/env bash\nset -eu\n{body}")
            path.chmod(0o755)
        return cls(folder, secrets.randbelow(10**8) + 10**8)

    @property
    def environment(self) -> dict[str, str]:
        """What a batch script of this job finds."""
        return {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "SLURM_FAKE": str(self.folder),
            "SLURM_JOB_ID": str(self.job_id),
            "SLURM_JOB_NODELIST": "node-[a-b]",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_PER_TASK": "3",
            "DISTSEG_HOME": str(self.folder / "home"),
        }

    @property
    def temp(self) -> Path:
        """Where Ray keeps its sockets and logs."""
        return Path(f"/tmp/ray-{self.job_id}")

    @property
    def token(self) -> Path:
        return self.folder / "home" / "slurm" / str(self.job_id) / "auth_token"

    def calls(self) -> list[str]:
        """What the fake programs were called with, in order."""
        return (self.folder / "calls").read_text().splitlines()

    def step_pids(self) -> list[int]:
        return [int(line) for line in (self.folder / "pids").read_text().split()]
