"""Several studies on one cluster take turns, so that none starves and none waits for ever for a gang.

Ray gives a free CPU to whoever asks next: a study of small trials would take each one that falls free, and one whose
trials need several at once would never see them together. Each study therefore tells the others what its trials take,
how many it holds, and how long it has been waiting for another; each decides by the same rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass

PATIENCE_S = 30.0
"""Waiting this long reserves what falls free; sooner, studies would swap their warm processes all the time."""


@dataclass(frozen=True)
class Claim:
    """What one study holds and wants."""

    study: str
    cpus: float
    """Of one trial, all its workers together."""
    gpus: float
    trials: int
    """Whose resources it holds."""
    waited_s: float
    """For another trial; 0 when it does not wait."""


def may_start(own: Claim, others: Sequence[Claim], cpus: float, gpus: float) -> bool:
    """Whether the study may start a trial on a cluster of so many CPUs and GPUs.

    First come, first served: beside what all studies hold there must be room for one trial of each study that has
    waited for longer, and for the new one. The study that has waited longest is thus served as soon as what it needs
    is free, and nothing that falls free is taken before it.
    """
    if not others:
        return True  # Tune's own limit is enough
    claims = [(own, own.trials + 1)]
    for other in others:
        ahead = other.waited_s >= PATIENCE_S and (other.waited_s, other.study) > (own.waited_s, own.study)
        claims.append((other, other.trials + ahead))
    needed_cpus = sum(claim.cpus * trials for claim, trials in claims)
    needed_gpus = sum(claim.gpus * trials for claim, trials in claims)
    return needed_cpus <= cpus + 1e-9 and needed_gpus <= gpus + 1e-9
