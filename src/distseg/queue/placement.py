"""Where the workers of a job would fit: nodes, GPUs on them, fractions of a GPU. Pure; nothing is reserved in Ray.

A worker fits on one node. A fraction of a GPU comes from one GPU; a whole number from as many free ones. Workers go
where they leave the least behind (best fit), so that large holes last. Ray places the workers itself, by the same
limits; the plan here says that there is room for all of them at once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from distseg.queue.models import Job, Node, Share

EPSILON = 1e-6
"""Sums of fractions such as 3 x 1/3 are a little off."""


@dataclass(frozen=True, slots=True)
class Free:
    """What is free of one node."""

    cpus: float
    gpus: tuple[float, ...] = ()
    """Free part of each GPU, in [0, 1]."""

    def less(self, share: Share) -> "Free":
        """Without a share. What is not there (a GPU that a node came back without) cannot be taken."""
        gpus = list(self.gpus)
        for index, part in share.gpus:
            if index < len(gpus):
                gpus[index] = max(0.0, gpus[index] - part)
        return Free(max(0.0, self.cpus - share.cpus), tuple(gpus))

    def both(self, other: "Free") -> "Free":
        """What is free in each of two situations."""
        gpus = tuple(min(a, b) for a, b in zip(self.gpus, other.gpus, strict=True))
        return Free(min(self.cpus, other.cpus), gpus)


Room = Mapping[str, Free]
"""By name of node."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A gang: so many workers of one size."""

    workers: int
    cpus: float
    """Of each worker."""
    gpus: float

    @classmethod
    def of(cls, job: Job) -> "Shape":
        return cls(job.workers, job.cpus / job.workers, job.gpus / job.workers)


def empty(nodes: Iterable[Node]) -> dict[str, Free]:
    """The nodes with nothing on them."""
    return {node.name: Free(node.cpus, (1.0,) * node.gpus) for node in nodes}


def without(room: Room, shares: Iterable[Share]) -> dict[str, Free]:
    """The room left beside shares; those on nodes that have gone count for nothing."""
    left = dict(room)
    for share in shares:
        if share.node in left:
            left[share.node] = left[share.node].less(share)
    return left


def common(room: Room, other: Room) -> dict[str, Free]:
    """What is free in both."""
    return {name: free.both(other[name]) for name, free in room.items() if name in other}


def place(shape: Shape, room: Room) -> tuple[Share, ...] | None:
    """A share for each worker, or None when not all of them fit at once."""
    left = dict(room)
    shares: list[Share] = []
    for _ in range(shape.workers):
        found = [(_left_over(left[name], shape), name) for name in left if fits(shape, left[name])]
        if not found:
            return None
        name = min(found)[1]
        share = _share(shape, name, left[name])
        left[name] = left[name].less(share)
        shares.append(share)
    return tuple(shares)


def fits(shape: Shape, free: Free) -> bool:
    """One worker fits on this node."""
    if shape.cpus > free.cpus + EPSILON:
        return False
    if shape.gpus == 0:
        return True
    if shape.gpus <= 1:
        return any(part >= shape.gpus - EPSILON for part in free.gpus)
    return sum(part >= 1 - EPSILON for part in free.gpus) >= shape.gpus - EPSILON


def most(shape: Shape, free: Free) -> int:
    """How many workers of a gang one node holds."""
    held = 0
    while held < shape.workers and fits(shape, free):
        free = free.less(_share(shape, "", free))
        held += 1
    return held


def _left_over(free: Free, shape: Shape) -> tuple[float, float]:
    """Small where the worker fits tightly; a node with GPUs comes last for a worker without."""
    return sum(free.gpus) - shape.gpus, free.cpus - shape.cpus


def _share(shape: Shape, name: str, free: Free) -> Share:
    if shape.gpus == 0:
        return Share(name, shape.cpus)
    if shape.gpus <= 1:
        part, index = min((part, index) for index, part in enumerate(free.gpus) if part >= shape.gpus - EPSILON)
        return Share(name, shape.cpus, ((index, min(part, shape.gpus)),))
    whole = [index for index, part in enumerate(free.gpus) if part >= 1 - EPSILON]
    return Share(name, shape.cpus, tuple((index, 1.0) for index in whole[: round(shape.gpus)]))
