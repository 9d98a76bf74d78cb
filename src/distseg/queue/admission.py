"""Who runs next: pure functions over (jobs, the cluster's nodes, what runs, the time).

The line is ordered by priority, then by submission. A job starts when all of its workers fit at once. The first that
does not fit is the head of the line, and a later job may pass it only so:

- where the head can count on a start (running jobs with time limits will have left enough by then): if it ends before
  that start, or fits into what is free both now and beside the head at that start;
- where the head cannot (a job without a time limit never ends): if it has a time limit, or if on each node that it
  would use enough stays free for all the workers that the head could ever be given there.

A job that the cluster could not hold even when empty, and one whose owner runs as many as allowed, keep nobody waiting.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import combinations, islice

from distseg.queue.models import Attempt, Cluster, Job, Share, Snapshot
from distseg.queue.placement import Free, Room, Shape, common, empty, most, place, without
from distseg.queue.retry import is_due
from distseg.queue.states import AttemptState

NEVER = float("inf")
_SETS_MAX = 2_000
"""How many sets of jobs to preempt are tried before a simpler choice is taken."""


class Wait(StrEnum):
    """Why a job that is in the line does not start."""

    BACKOFF = "BACKOFF"  # its next attempt is not due yet
    TOO_LARGE = "TOO_LARGE"  # the cluster as it is could never hold it
    OWNER = "OWNER"  # its owner runs as many jobs as one may
    HEAD = "HEAD"  # first of those that do not fit
    BEHIND = "BEHIND"  # would fit, but could delay the head
    BUSY = "BUSY"  # does not fit, and comes after the head


@dataclass(frozen=True, slots=True)
class Plan:
    """What a dispatcher is to do now."""

    start: tuple[tuple[Job, tuple[Share, ...]], ...] = ()
    """In the order in which to start them."""
    waits: dict[str, Wait] = field(default_factory=dict)
    """By id of job."""
    head: Job | None = None
    head_start: float = NEVER
    """Earliest time that the head can count on."""
    preempt: tuple[tuple[Job, Attempt], ...] = ()
    """Told to make room for the head."""


def plan(seen: Snapshot, cluster: Cluster) -> Plan:
    """Decides over everything that waits; the same for the same arguments."""
    whole = empty(cluster.nodes)
    free = without(whole, (share for _, attempt in seen.live for share in attempt.placement))
    owners = Counter(job.owner for job, _ in seen.live)
    ends = [(_end(job, attempt), attempt.placement) for job, attempt in seen.live]
    start: list[tuple[Job, tuple[Share, ...]]] = []
    waits: dict[str, Wait] = {}
    head: Job | None = None
    reserved = _Reservation()
    failed: dict[tuple[Shape, float | None], Wait] = {}  # room only shrinks here: what failed once fails again
    possible: dict[Shape, bool] = {}
    for job in seen.waiting:
        shape = Shape.of(job)
        if shape not in possible:
            possible[shape] = place(shape, whole) is not None
        if not is_due(job, seen.now):
            waits[job.id] = Wait.BACKOFF
        elif not possible[shape]:
            waits[job.id] = Wait.TOO_LARGE
        elif cluster.policy.max_per_owner is not None and owners[job.owner] >= cluster.policy.max_per_owner:
            waits[job.id] = Wait.OWNER
        elif (kind := (shape, job.timeout_s)) in failed:
            waits[job.id] = failed[kind]
        elif (placed := place(shape, free)) is None:
            failed[kind] = Wait.BUSY
            waits[job.id] = Wait.HEAD if head is None else Wait.BUSY
            if head is None:
                head, reserved = job, _reserve(shape, whole, ends, seen.now)
        elif head is not None and (placed := reserved.beside(job, shape, placed, free, seen.now)) is None:
            waits[job.id] = failed[kind] = Wait.BEHIND
        else:
            start.append((job, placed))
            free = without(free, placed)
            owners[job.owner] += 1
            ends.append((seen.now + job.timeout_s if job.timeout_s else NEVER, placed))
            if head is not None:
                reserved = reserved.with_also(placed, ends[-1][0])
    stopped: tuple[tuple[Job, Attempt], ...] = ()
    if head is not None and cluster.policy.preempt:
        stopped = _preempt(head, whole, seen.live, (share for _, shares in start for share in shares))
    return Plan(tuple(start), waits, head, reserved.start, stopped)


@dataclass(frozen=True, slots=True)
class _Reservation:
    """What the head of the line can count on."""

    start: float = NEVER
    room: dict[str, Free] | None = None
    """Free beside the head at its start; None when it has none."""
    shape: Shape | None = None
    """Of the head."""
    whole: dict[str, Free] = field(default_factory=dict)

    def beside(
        self, job: Job, shape: Shape, placed: tuple[Share, ...], free: Room, now: float
    ) -> tuple[Share, ...] | None:
        """Where a job may start now without delaying the head; None when nowhere."""
        if job.timeout_s is not None and now + job.timeout_s <= self.start:
            return placed
        if self.room is not None:
            return place(shape, common(free, self.room))
        # No start to count on: whoever ends first may make the head fit, so nothing that it could use is taken.
        assert self.shape is not None, "no head"
        head = self.shape
        return place(shape, {name: _spare(left, head, most(head, self.whole[name])) for name, left in free.items()})

    def with_also(self, placed: tuple[Share, ...], end: float) -> "_Reservation":
        """With one more job started, which ends by itself then."""
        if self.room is None or end <= self.start:
            return self
        return replace(self, room=without(self.room, placed))


def _spare(free: Free, head: Shape, workers: int) -> Free:
    """What is free of a node beyond the need of ``workers`` of the head; of what is short for them, nothing."""
    cpus = max(0.0, free.cpus - workers * head.cpus) if head.cpus else free.cpus
    if not workers or not head.gpus:
        return Free(cpus, free.gpus)
    kept = place(Shape(workers, 0.0, head.gpus), {"": free})
    if kept is None:
        return Free(cpus, (0.0,) * len(free.gpus))
    return Free(cpus, without({"": free}, kept)[""].gpus)


def _reserve(
    shape: Shape, whole: dict[str, Free], ends: Sequence[tuple[float, tuple[Share, ...]]], now: float
) -> _Reservation:
    """The earliest time at which the head fits if running jobs end by their limits, and where."""
    for end in sorted({end for end, _ in ends if end < NEVER}):
        still = (share for other, placement in ends if other > end for share in placement)
        at_end = without(whole, still)
        placed = place(shape, at_end)
        if placed is not None:
            return _Reservation(max(end, now), without(at_end, placed), shape, whole)
    return _Reservation(shape=shape, whole=whole)


def _end(job: Job, attempt: Attempt) -> float:
    """When an attempt has surely ended: by its time limit, or because it was told to stop."""
    if attempt.stop_at is not None:
        return attempt.stop_at + attempt.grace_s
    if job.timeout_s is None:
        return NEVER
    return (attempt.claimed_at if attempt.running_at is None else attempt.running_at) + job.timeout_s


def _preempt(
    head: Job, whole: Room, live: Sequence[tuple[Job, Attempt]], starting: Iterable[Share]
) -> tuple[tuple[Job, Attempt], ...]:
    """The fewest jobs of lower priority whose end lets the head start; of as many the lowest, then the youngest.

    Empty when no set does, or when those that were told to stop already make enough room.
    """
    shape = Shape.of(head)
    staying = [(job, attempt) for job, attempt in live if attempt.stop is None]
    beside = without(whole, starting)

    def enough(chosen: Sequence[tuple[Job, Attempt]]) -> bool:
        kept = (share for pair in staying if pair not in chosen for share in pair[1].placement)
        return place(shape, without(beside, kept)) is not None

    lower = sorted(
        (pair for pair in staying if pair[0].priority < head.priority and pair[1].state is AttemptState.RUNNING),
        key=lambda pair: (pair[0].priority, -(pair[1].running_at or 0.0)),
    )
    if enough(()) or not enough(lower):
        return ()
    sets = (chosen for size in range(1, len(lower) + 1) for chosen in combinations(lower, size))
    for chosen in islice(sets, _SETS_MAX):
        if enough(chosen):
            return chosen
    needed = lower
    for pair in reversed(lower):  # too many to try them all: spare the highest and oldest for as long as that works
        fewer = [other for other in needed if other is not pair]
        needed = fewer if enough(fewer) else needed
    return tuple(needed)
