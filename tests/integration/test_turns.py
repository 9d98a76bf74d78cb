"""Studies that meet in a key-value store: Ray's own in life, a dictionary here."""

from types import SimpleNamespace
from typing import Any

import pytest

from distseg.on_ray import turns
from distseg.on_ray.turns import SILENCE_S, Turns
from distseg.search.claims import PATIENCE_S

CLUSTER = {"CPU": 2.0, "GPU": 0.0}


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    kept: dict[str, bytes] = {}

    def put(key: str, value: str, namespace: str) -> None:
        kept[key] = value.encode()

    def delete(key: Any, namespace: str) -> None:
        kept.pop(key if isinstance(key, str) else key.decode(), None)

    fake = SimpleNamespace(
        _internal_kv_put=put,
        _internal_kv_get=lambda key, namespace: kept.get(key.decode()),
        _internal_kv_list=lambda prefix, namespace: [key.encode() for key in kept],
        _internal_kv_del=delete,
    )
    monkeypatch.setattr(turns, "internal_kv", fake)
    return kept


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(turns, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds: None))
    return now


def test_two_studies_share_a_cluster(store: dict[str, bytes], clock: list[float]) -> None:
    single, gang = Turns("single", 1, 0, CLUSTER), Turns("gang", 2, 0, CLUSTER)
    with single, gang:
        assert single.take()
        assert not gang.take()  # begins to wait
        assert single.take()  # nobody has waited for long
        single.hold(1)
        clock[0] += PATIENCE_S
        gang._tell()  # its beat
        assert not single.take()
        single.hold(0)
        assert gang.wait(lambda: False)
        assert not single.take()  # both CPUs are the gang's
    assert store == {}


def test_a_wait_may_end_for_another_reason(store: dict[str, bytes], clock: list[float]) -> None:
    with Turns("single", 1, 0, CLUSTER) as single, Turns("gang", 2, 0, CLUSTER) as gang:
        assert single.take()
        answers = iter([False, True])
        assert not gang.wait(lambda: next(answers))


def test_a_study_that_was_killed_is_forgotten(store: dict[str, bytes], clock: list[float]) -> None:
    single, gang = Turns("single", 1, 0, CLUSTER), Turns("gang", 2, 0, CLUSTER)
    assert gang.take()  # no `with`, so no beat: it is dead from here on
    assert not single.take()
    clock[0] += SILENCE_S + 1
    assert single.take()
    assert list(store) == ["single"]
