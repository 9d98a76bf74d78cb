"""What every test starts from: no network, no Ray of somebody else, one thread, a home of its own."""

import os
from pathlib import Path

import pytest

for name in [*os.environ]:
    if name.startswith("DISTSEG_") and name != "DISTSEG_REAL_DATA":
        del os.environ[name]  # a home or a lease of the caller
for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
    os.environ.pop(name, None)
# Before torch, cv2 or ray are imported, and inherited by the processes that tests start.
os.environ |= {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}

from hypothesis import settings  # noqa: E402

from distseg.home import Home  # noqa: E402

settings.register_profile("busy machines", deadline=None)  # no test measures time
settings.load_profile("busy machines")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """An empty home, also in ``DISTSEG_HOME``."""
    root = tmp_path / "home"
    monkeypatch.setenv("DISTSEG_HOME", str(root))
    return Home(root)


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three make-believe cars x four views at 32x32: eight samples to train on in two tars, four to validate."""
    from distseg.data.layouts import read_corpus
    from distseg.data.pack import pack
    from distseg.data.synthetic.carvana import write_carvana

    folder = tmp_path_factory.mktemp("cars")
    write_carvana(folder / "raw", groups=3, views=4, size=(64, 64))
    corpus = read_corpus("carvana", folder / "raw")
    pack(corpus, folder / "shards", size=(32, 32), val_fraction=0.34, folds=3, samples_per_shard=5)
    return folder / "shards"
