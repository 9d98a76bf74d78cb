"""A study's place among the others of its cluster, which it finds in Ray's own key-value store.

Each writes its claim there, and again at every beat, so that one whose driver was killed is soon forgotten.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from ray.exceptions import RpcError
from ray.experimental import internal_kv

from distseg.search.claims import Claim, may_start

BEAT_S = 2.0
SILENCE_S = 15.0
"""A study that has not been heard of for this long is gone."""

_NAMESPACE = "distseg-turns"


class Turns:
    """One study's place among those of its cluster; ``with`` keeps it known to the others."""

    def __init__(self, study: str, cpus: float, gpus: float, total: Mapping[str, float]) -> None:
        """``cpus``, ``gpus``: of one trial. ``total``: CPU and GPU of the whole cluster."""
        self._claim = Claim(study, cpus, gpus, trials=0, waited_s=0.0)
        self._total = total
        self._waiting_since: float | None = None
        self._beats = 0
        self._lock = threading.Lock()  # the beat and the study write by turns
        self._over = threading.Event()
        self._heard: dict[str, tuple[bytes, float]] = {}
        self._beating = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Turns":
        self._tell()
        self._beating.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._beating.join()
        with suppress(RpcError):
            internal_kv._internal_kv_del(self._claim.study, namespace=_NAMESPACE)

    def hold(self, trials: int) -> None:
        """Says how many trials' resources the study holds now."""
        if trials != self._claim.trials:
            self._claim = replace(self._claim, trials=trials)
            self._tell()

    def take(self) -> bool:
        """Whether a trial may start now; then it counts as held."""
        own = replace(self._claim, waited_s=self._waited_s())
        if may_start(own, self._others(), self._total.get("CPU", 0.0), self._total.get("GPU", 0.0)):
            self._waiting_since = None
            self.hold(self._claim.trials + 1)
            return True
        if self._waiting_since is None:
            self._waiting_since = time.monotonic()
            self._tell()
        return False

    def wait(self, until: Callable[[], bool]) -> bool:
        """Waits until a trial may start, which then counts as held; False when ``until`` came true before."""
        while not until():
            if self.take():
                return True
            time.sleep(0.5)
        return False

    def _others(self) -> list[Claim]:
        now, found = time.monotonic(), []
        for key in internal_kv._internal_kv_list("", namespace=_NAMESPACE):
            name = key.decode()
            value = None if name == self._claim.study else internal_kv._internal_kv_get(key, namespace=_NAMESPACE)
            if value is None:
                continue
            if name not in self._heard or self._heard[name][0] != value:
                self._heard[name] = value, now
            if now - self._heard[name][1] > SILENCE_S:
                internal_kv._internal_kv_del(key, namespace=_NAMESPACE)  # its next beat, if any, brings it back
                continue
            row: dict[str, Any] = json.loads(value)
            row.pop("beat")
            found.append(Claim(**row))
        return found

    def _beat(self) -> None:
        while not self._over.wait(BEAT_S):
            with suppress(RpcError):  # the head is restarting or gone, which the driver finds out by itself
                self._tell()

    def _tell(self) -> None:
        with self._lock:
            self._beats += 1  # a claim that stays the same is heard all the same
            row = asdict(self._claim) | {"waited_s": self._waited_s(), "beat": self._beats}
            internal_kv._internal_kv_put(self._claim.study, json.dumps(row), namespace=_NAMESPACE)

    def _waited_s(self) -> float:
        return 0.0 if self._waiting_since is None else time.monotonic() - self._waiting_since
