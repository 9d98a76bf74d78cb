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

from distseg.home import Home  # noqa: E402


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """An empty home, also in ``DISTSEG_HOME``."""
    root = tmp_path / "home"
    monkeypatch.setenv("DISTSEG_HOME", str(root))
    return Home(root)
