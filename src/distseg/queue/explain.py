"""What a job waits for and what would free it, in a sentence."""

from collections.abc import Sequence
from datetime import UTC, datetime

from distseg.queue.admission import NEVER, Plan, Wait
from distseg.queue.models import Attempt, Cluster, Job, Node, Snapshot
from distseg.queue.placement import Room, Shape, empty, most, without
from distseg.queue.states import JobState

_NAMED = 3


def explain(
    job: Job, seen: Snapshot, plan: Plan, cluster: Cluster, blocking: Sequence[str], last: Attempt | None
) -> str:
    """One sentence or two. ``blocking``: what it comes after and has not ended; ``last``: its latest attempt."""
    if job.state.over:
        return f"Ended {job.state}: {job.reason}."
    if job.state is JobState.PAUSED:
        return f"Paused: 'distseg jobs unpause {job.id}' lets it wait for its turn again."
    if job.state is JobState.QUEUED:
        return _waiting(job, seen, plan, cluster, blocking)
    assert last is not None, f"job {job.id}: {job.state} without an attempt"
    if job.state is JobState.STARTING:
        return f"Attempt {last.number} is on its way to the cluster, {_span(seen.now - last.claimed_at)} so far."
    if job.state is JobState.CANCELLING:
        asked = _span(seen.now - (last.stop_at or seen.now))
        return f"Told to stop {asked} ago: {job.reason}; it has {last.grace_s:g} s for a last checkpoint."
    begun = _span(seen.now - (last.running_at or seen.now))
    if last.stop is not None:
        return f"Runs on {last.host} (attempt {last.number}), told to stop: {last.reason}."
    limit = f" of {_span(job.timeout_s)} at most" if job.timeout_s else ""
    return f"Runs on {last.host} (attempt {last.number}) for {begun}{limit}; it waits for nothing."


def _waiting(job: Job, seen: Snapshot, plan: Plan, cluster: Cluster, blocking: Sequence[str]) -> str:
    if blocking:
        return f"Waits for the end of {_some(blocking)}."
    if cluster.seen_at is None:
        return "Waits for a cluster: no dispatcher has reached one yet."
    if job.id not in plan.waits:
        return "Fits now: starts at the dispatcher's next look, within a second or two."
    shape, wait = Shape.of(job), plan.waits[job.id]
    free = without(empty(cluster.nodes), (share for _, attempt in seen.live for share in attempt.placement))
    needs = f"needs {_gang(shape)}; free now: {_free(free)}"
    ahead = _some([name(plan.head)]) if plan.head is not None else ""
    if wait is Wait.BACKOFF:
        return f"Waits {_span(job.not_before - seen.now)} more before attempt {job.attempt + 1}: {job.reason}."
    if wait is Wait.TOO_LARGE:
        return (
            f"Waits for a larger cluster: needs {_gang(shape)}; even when empty, {_nodes(cluster.nodes)} can hold "
            f"{sum(most(shape, whole) for whole in empty(cluster.nodes).values())} of these workers."
        )
    if wait is Wait.OWNER:
        theirs = [name(other) for other, _ in seen.live if other.owner == job.owner]
        return (
            f"Waits because {job.owner} may run {cluster.policy.max_per_owner} jobs at once; "
            f"it can start when one of them ends: {_some(theirs)}."
        )
    if wait is Wait.HEAD:
        return f"First in line: {needs}. {_until(plan, seen)}"
    place = 1 + next(index for index, other in enumerate(seen.waiting) if other.id == job.id)
    if wait is Wait.BEHIND:
        limit = "" if plan.head_start == NEVER else f" of less than {_span(plan.head_start - seen.now)}"
        return (
            f"Fits now, but could delay {ahead}, which is first in line; it can start after that one, or at once with "
            f"a time limit (--timeout-s){limit}."
        )
    return f"Number {place} in line, behind {ahead}: {needs}."


def _until(plan: Plan, seen: Snapshot) -> str:
    """What would let the head of the line start."""
    running = [(job, attempt) for job, attempt in seen.live]
    going = [name(job) for job, attempt in running if attempt.stop is not None]
    if going:
        return f"It can start when those told to stop have ended: {_some(going)}."
    if plan.head_start < NEVER:
        when = datetime.fromtimestamp(plan.head_start, UTC).isoformat(timespec="seconds")
        return f"It can start at {when} at the latest, by the time limits of those that run."
    endless = [name(job) for job, _ in running if job.timeout_s is None]
    return f"It can start when enough of these end, which have no time limit: {_some(endless)}."


def name(job: Job) -> str:
    return f"{job.name} ({job.id})"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _gang(shape: Shape) -> str:
    each = _amount(shape.gpus, shape.cpus)
    return f"{shape.workers} workers of {each} each" if shape.workers > 1 else f"{each} on one node"


def _free(free: Room) -> str:
    return _amount(sum(sum(node.gpus) for node in free.values()), sum(node.cpus for node in free.values()))


def _nodes(nodes: Sequence[Node]) -> str:
    sizes = sorted({_amount(node.gpus, node.cpus) for node in nodes})
    count = "the one node" if len(nodes) == 1 else f"the {len(nodes)} nodes"
    return f"{count} of it ({' or '.join(sizes)})" if nodes else "a cluster without nodes"


def _amount(gpus: float, cpus: float) -> str:
    """``2 GPU and 8 CPU``; what is zero is left out."""
    parts = [f"{value:.3g} {unit}" for value, unit in ((gpus, "GPU"), (cpus, "CPU")) if value > 1e-6]
    return " and ".join(parts) or "nothing"


def _span(seconds: float) -> str:
    """``95`` -> ``1 min 35 s``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
