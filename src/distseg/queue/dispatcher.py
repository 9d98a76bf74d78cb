"""The dispatcher: decides what runs next, hands it to the cluster, watches. Any number may run; one of them leads.

It keeps nothing that the store does not have: killed at any point, another (or the same, started again) goes on.

- An attempt is claimed in the store before it is submitted, and submitted under a name that the cluster takes once: a
  dispatcher that was killed in between is followed by one that submits it again.
- An attempt that has begun ends by its own process. When the cluster no longer knows it, it is told to stop; only when
  its lease has not been renewed for its whole length and a grace is it LOST, and may another begin. Both clocks have to
  agree on that, the store's and our own, which nobody sets: a store whose clock jumps ends no lease.
- One that has not begun can be given up at any time: the store will refuse its start.
"""

import time
from collections.abc import Callable
from dataclasses import replace

from distseg.errors import BackendError, ClusterError, FencedError, StoreError
from distseg.home import Home
from distseg.queue.admission import plan
from distseg.queue.backend import Backend, Report, Status, Submission
from distseg.queue.database import Database
from distseg.queue.leader import Ledger
from distseg.queue.models import Attempt, Cluster, Job, Leader, Policy, Snapshot, Timing
from distseg.queue.retry import Outcome
from distseg.queue.states import AttemptState

_CLOCK_SLACK_S = 1.0
_STARTS = 3
"""How often an attempt may end before its command begins, at no charge."""
_IDLE_WORK_S = 5.0
_IDLE_CLUSTER_S = 30.0


class Dispatcher:
    """One dispatcher. ``tell`` receives lines for people; ``clock`` is monotonic seconds."""

    def __init__(
        self,
        database: Database,
        backend: Backend,
        home: Home,
        holder: str,
        *,
        timing: Timing = Timing(),  # noqa: B008 - frozen
        policy: Policy = Policy(),  # noqa: B008
        tell: Callable[[str], None] = lambda line: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ledger = Ledger(database, timing)
        self.backend = backend
        self.home = home
        self.holder = holder
        self.timing = timing
        self.policy = policy
        self.leader: Leader | None = None
        self._tell = tell
        self._clock = clock
        self._cluster = Cluster(policy=policy)
        self._described: Cluster | None = None
        self._reports: dict[str, Report] | None = None
        self._tried_to_lead = self._held = self._worked = self._looked = -float("inf")
        self._submitted: dict[str, float] = {}
        self._missed: dict[str, float] = {}
        self._pulse: dict[str, tuple[int, float]] = {}
        self._last_event = -1
        self._idle = False
        self._trouble = ""

    def serve(self, stopping: Callable[[], bool]) -> None:
        """Goes on until told to stop, whatever happens to the store or the cluster; then gives leadership up."""
        while not stopping():
            self.step()
            time.sleep(self.timing.poll_store_s)
        self.resign()

    def step(self) -> None:
        """Does what is due; cheap when nothing is."""
        try:
            if not self._lead():
                return
            if self._clock() - self._looked >= (_IDLE_CLUSTER_S if self._idle else self.timing.poll_cluster_s):
                self._look()
            pause = _IDLE_WORK_S if self._idle else self.timing.work_s
            happened = self.ledger.last_event() != self._last_event
            if happened or self._clock() - self._worked >= pause:
                if happened and self._idle:
                    self._idle = False
                    self._look()  # what was seen of the cluster may be old
                self._work()
        except FencedError as error:
            self._tell(str(error))
            self._forget()
        except StoreError as error:
            self._worry(str(error))

    def resign(self) -> None:
        """Lets another lead at once."""
        if self.leader is not None:
            try:
                self.ledger.resign(self.leader)
            except (FencedError, StoreError) as error:
                self._tell(str(error))
            self._forget()

    def _lead(self) -> bool:
        """Whether we lead, after renewing the lease or trying to take it if that is due."""
        now = self._clock()
        if self.leader is not None:
            self._keep()
            return True
        if now - self._tried_to_lead < self.timing.leadership_renew_s / 3:
            return False
        self._tried_to_lead = now
        self.leader = self.ledger.lead(self.holder)
        if self.leader is not None:
            self._held = now
            self._tell(f"{self.holder} leads (number {self.leader.epoch})")
        return self.leader is not None

    def _keep(self) -> None:
        """Renews leadership when it is due; called between any two things that take time."""
        now = self._clock()
        if now - self._held >= self.timing.leadership_renew_s:
            self.ledger.hold(self._leading())
            self._held = now

    def _leading(self) -> Leader:
        if self.leader is None:
            raise FencedError(f"dispatcher {self.holder}: does not lead")
        return self.leader

    def _forget(self) -> None:
        self.leader = None
        self._described = self._reports = None
        self._submitted, self._missed, self._pulse = {}, {}, {}
        self._last_event, self._idle = -1, False
        self._worked = self._looked = -float("inf")

    def _look(self) -> None:
        """Asks the cluster what it has and what it knows; nothing is admitted while it does not answer."""
        self._looked = self._clock()
        try:
            nodes = self.backend.nodes()
            self._keep()
            # Ray lists every job that it ever ran: it is not asked while there is nothing to look after
            self._reports = {} if self._idle else self.backend.reports()
        except BackendError as error:
            self._reports = None
            self._worry(str(error))
            return
        self._keep()
        self._worry("")
        self._cluster = replace(self._cluster, nodes=nodes)
        if self._cluster != self._described:
            self.ledger.describe(self._leading(), self._cluster)
            self._described = self._cluster
            self._last_event = -1

    def _work(self) -> None:
        """Looks after all that runs, then starts what may start."""
        self._worked = self._clock()
        seen = self.ledger.snapshot()
        self._last_event = seen.last_event
        self._idle = not seen.live and not seen.waiting
        for job, attempt in seen.live:
            self._keep()
            self._watch(job, attempt, seen)
        live = {attempt.submission_id for _, attempt in seen.live}
        self._submitted = {name: at for name, at in self._submitted.items() if name in live}
        self._missed = {name: at for name, at in self._missed.items() if name in live}
        self._pulse = {name: pulse for name, pulse in self._pulse.items() if name in live}
        unsent = [(job, attempt) for job, attempt in seen.live if attempt.state is AttemptState.CLAIMED]
        if self._reports is None:
            return
        decided = plan(seen, self._cluster)
        for job, attempt in decided.preempt:
            assert decided.head is not None
            head = decided.head
            why = f"made room for {head.name} ({head.id}) of priority {head.priority}"
            self.ledger.stop(self._leading(), attempt, AttemptState.PREEMPTED, why)
            self._tell(f"{attempt.submission_id} ({job.name}): {why}")
        chosen = [(job.id, placement) for job, placement in decided.start]
        claimed = self.ledger.claim(self._leading(), chosen) if chosen else []
        self._launch([*unsent, *claimed])

    def _launch(self, attempts: list[tuple[Job, Attempt]]) -> None:
        accepted = []
        try:
            for job, attempt in attempts:
                self._keep()
                try:
                    self.backend.submit(self._submission(job, attempt))
                except ClusterError as error:
                    outcome = Outcome(AttemptState.FAILED, f"could not be started: {error}")
                    self.ledger.give_up(self._leading(), attempt, outcome)
                    self._tell(f"{attempt.submission_id} ({job.name}): {outcome.reason}")
                else:
                    self._submitted[attempt.submission_id] = self._clock()
                    accepted.append(attempt)
                    self._tell(f"{attempt.submission_id} ({job.name}): submitted")
        except BackendError as error:  # the rest stay CLAIMED, and are submitted when it answers again
            self._reports = None
            self._worry(str(error))
        if accepted:
            self.ledger.launched(self._leading(), accepted)

    def _submission(self, job: Job, attempt: Attempt) -> Submission:
        return Submission(
            id=attempt.submission_id,
            command=("python", "-m", "distseg.queue.attempt", job.id, str(attempt.number)),
            environment={"DISTSEG_HOME": str(self.home.root)},
            working_dir=job.working_dir,
            cpus=job.cpus if job.alone else 0.0,
            gpus=job.gpus if job.alone else 0.0,
        )

    def _watch(self, job: Job, attempt: Attempt, seen: Snapshot) -> None:
        """Ends an attempt that shows no life."""
        name = attempt.submission_id
        begun = attempt.state is AttemptState.RUNNING
        if begun:
            if self._is_dead(attempt, seen.now):
                self._lose(job, attempt, f"its lease was not renewed for {attempt.lease_s + attempt.grace_s:g} s")
                return
        elif seen.now > attempt.lease_until:
            self._lose(job, attempt, "did not begin in time")
            return
        if attempt.state is AttemptState.CLAIMED or self._reports is None:
            return
        if self._submitted.get(name, -float("inf")) >= self._looked:
            return  # the cluster was asked before it was submitted
        report = self._reports.get(name)
        if report is None:
            if self._missed.setdefault(name, self._looked) == self._looked:
                return  # missing for the first time: asked once more
            why = "the cluster does not know it"
        elif report.status is Status.ENDED:
            why = f"its process has ended: {report.message or 'no word from the cluster'}"
        else:
            self._missed.pop(name, None)
            return
        if begun:  # should it live on somewhere, it hears of this when it renews its lease
            if attempt.stop is None:
                self.ledger.stop(self._leading(), attempt, AttemptState.LOST, why)
                self._tell(f"{name} ({job.name}): told to stop: {why}")
        elif report is None:
            self._lose(job, attempt, why)
        else:  # the driver was killed before it began, or it can never begin: a few tries tell
            end = AttemptState.LOST if job.losses < _STARTS else AttemptState.FAILED
            outcome = Outcome(end, f"could not be started: {why}")
            if self.ledger.give_up(self._leading(), attempt, outcome):
                self._tell(f"{name} ({job.name}): {outcome.reason}")

    def _is_dead(self, attempt: Attempt, now: float) -> bool:
        """Its lease and the grace are over, by the store's clock and by ours."""
        renewals, since = self._pulse.get(attempt.submission_id, (-1, 0.0))
        if renewals != attempt.renewals:
            self._pulse[attempt.submission_id] = (attempt.renewals, self._clock())
            return False
        watched = self._clock() - since >= attempt.lease_s + attempt.grace_s
        set_back = attempt.lease_until > now + attempt.lease_s + _CLOCK_SLACK_S
        return watched and (now > attempt.lease_until + attempt.grace_s or set_back)

    def _lose(self, job: Job, attempt: Attempt, why: str) -> None:
        if attempt.stop is not None:
            why = f"{attempt.reason}; {why}"
        try:
            self.backend.stop(attempt.submission_id)
        except BackendError as error:
            self._worry(str(error))
        if self.ledger.give_up(self._leading(), attempt, Outcome(AttemptState.LOST, why)):
            self._tell(f"{attempt.submission_id} ({job.name}): lost: {why}")

    def _worry(self, trouble: str) -> None:
        """Tells of trouble once, and of its end."""
        if trouble != self._trouble:
            self._tell(trouble or "all is well again")
            self._trouble = trouble
