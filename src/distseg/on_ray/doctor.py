"""The named Ray cluster: does it answer, is its version ours, what does it have, and who may command it."""

from collections.abc import Sequence

import ray
from packaging.version import Version
from ray.dashboard.utils import ray_address_to_api_server_url

from distseg.doctor.finding import Finding, Level, Survey
from distseg.errors import BackendError
from distseg.on_ray.jobs import RayJobs, is_loopback, is_open
from distseg.queue.models import Node

OLDEST = "2.52"
"""The first with token authentication."""


def cluster(address: str | None, dashboard: str | None, auth_mode: str | None) -> Survey:
    """``address``, ``dashboard``, ``auth_mode``: RAY_ADDRESS, RAY_API_SERVER_ADDRESS, RAY_AUTH_MODE of the user."""
    found = [own_version(ray.__version__)]
    if address == "local":
        address = None
    if not (address or dashboard):
        return Survey([*found, Finding("Ray cluster", "none named: commands start a Ray of their own (RAY_ADDRESS)")])
    found.append(authentication(auth_mode))
    try:
        url = dashboard or _dashboard_of(str(address))
        client = RayJobs(url)
        there, nodes, is_public = client.version(), client.nodes(), is_open(url)
    except BackendError as error:
        step = "start it, or unset RAY_ADDRESS and RAY_API_SERVER_ADDRESS; see RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH"
        return Survey([*found, Finding("Ray cluster", str(error), Level.ERROR, step)])
    hosts = tuple(sorted({node.host for node in nodes}))
    return Survey([*found, *findings(url, ray.__version__, there, nodes, is_public)], hosts)


def own_version(here: str) -> Finding:
    """The Ray of this Python environment."""
    if Version(here) < Version(OLDEST):
        return Finding("Ray", here, Level.ERROR, f"want {OLDEST} or later, which can ask for a token")
    return Finding("Ray", here)


def authentication(mode: str | None) -> Finding:
    """Where nothing is set, Ray decides by a token that an earlier Ray has left."""
    if mode:
        return Finding("RAY_AUTH_MODE", mode)
    step = "set it to token or disabled for every process: else a token left in ~/.ray decides"
    return Finding("RAY_AUTH_MODE", "not set", Level.WARNING, step)


def findings(url: str, here: str, there: str, nodes: Sequence[Node], is_public: bool) -> list[Finding]:
    """A cluster that answers. ``is_public``: it asks for no token."""
    hosts = sorted({node.host for node in nodes})
    total = f"{sum(node.cpus for node in nodes):g} CPUs, {sum(node.gpus for node in nodes)} GPUs"
    found = [
        Finding("Ray cluster", f"{url}: {_count(len(nodes), 'node')} on {_count(len(hosts), 'host')}, {total}"),
        Finding("cluster's Ray", there)
        if there == here
        else Finding(
            "cluster's Ray", f"{there}, here {here}", Level.ERROR, f"pip install 'ray=={there}', or upgrade it"
        ),
    ]
    if Version(there) < Version(OLDEST):
        step = f"upgrade it to {OLDEST} or later: before, whoever reaches it may run commands"
        found.append(Finding("cluster's authentication", "none in this version", Level.ERROR, step))
    elif not is_public:
        found.append(Finding("cluster's authentication", "by token"))
    elif is_loopback(url):
        found.append(Finding("cluster's authentication", "off; only this machine reaches the dashboard"))
    else:
        step = "start it with RAY_AUTH_MODE=token: whoever reaches the dashboard may run commands"
        found.append(Finding("cluster's authentication", f"off, and others may reach {url}", Level.ERROR, step))
    return found


def _dashboard_of(address: str) -> str:
    try:
        return str(ray_address_to_api_server_url(address))
    except Exception as error:  # Ray raises whatever it likes, some of it with a traceback as text
        words = " ".join(str(error).split())[:200] or type(error).__name__
        raise BackendError(f"Ray at {address}: {words}") from error


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
