"""A headless Chromium, driven over plain HTTP through its chromedriver (W3C WebDriver), with a log of its requests."""

import base64
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
MISSING = "no chromium with chromedriver on this machine; install both to open the page"
FLAGS = [
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
    "--proxy-server=direct://",
]
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key by which WebDriver names elements
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Browser:
    """One page in one window."""

    def __init__(self, session: str) -> None:
        self._session = session

    def open(self, url: str) -> None:
        self._ask("POST", "url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """What the JavaScript returns; the arguments are its ``arguments``."""
        return self._ask("POST", "execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, script: str, *arguments: Any, timeout_s: float = 60) -> Any:
        """What the JavaScript returns as soon as that is true."""
        return wait_for(lambda: self.run(script, *arguments), script, timeout_s)

    def find(self, css: str) -> str:
        """The first element that the selector finds, now or soon."""

        def found() -> str | None:
            elements = self._ask("POST", "elements", {"using": "css selector", "value": css})
            return elements[0][_ELEMENT] if elements else None

        return str(wait_for(found, css))

    def type(self, css: str, text: str) -> None:
        """Keys sent to an element; into an ``input type=file``, the path of a file to upload."""
        self._ask("POST", f"element/{self.find(css)}/value", {"text": text})

    def click(self, css: str) -> None:
        self._ask("POST", f"element/{self.find(css)}/click", {})

    def text(self, css: str) -> str:
        return str(self.run("return document.querySelector(arguments[0])?.innerText ?? ''", css))

    def size(self, width: int, height: int) -> None:
        """Of what is inside the window, in CSS pixels, phones' widths included."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._devtools("Emulation.setDeviceMetricsOverride", **metrics)

    def dark(self, on: bool) -> None:
        """As if the reader's machine were set so."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if on else "light"}
        self._devtools("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._ask("GET", "screenshot")))

    def hosts(self) -> set[str]:
        """Of all requests that the page made since the last call, those of pages inside it too."""
        urls = []
        for entry in self._ask("POST", "se/log", {"type": "performance"}):
            event = json.loads(entry["message"])["message"]
            if event["method"] == "Network.requestWillBeSent":
                urls.append(urlsplit(event["params"]["request"]["url"]))
            elif event["method"] == "Network.webSocketCreated":
                urls.append(urlsplit(event["params"]["url"]))
        return {str(url.hostname) for url in urls if url.scheme in ("http", "https", "ws", "wss")}

    def console(self) -> list[str]:
        """Errors that the browser told since the last call."""
        entries = self._ask("POST", "se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def _devtools(self, command: str, **params: Any) -> None:
        self._ask("POST", "goog/cdp/execute", {"cmd": command, "params": params})

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        return _ask(method, f"{self._session}/{path}", body)


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A window that is closed, and its profile in ``folder`` removed, at the end."""
    assert CHROMIUM is not None
    assert CHROMEDRIVER is not None
    profile, log = folder / "profile", folder / "chromedriver.log"
    with log.open("wb") as output:
        driver = subprocess.Popen([CHROMEDRIVER, "--port=0"], stdout=output, stderr=subprocess.STDOUT)
    try:
        started = "started successfully on port "
        line = wait_for(lambda: started in log.read_text() and log.read_text(), "chromedriver")
        address = f"http://127.0.0.1:{int(line.partition(started)[2].split('.')[0])}"
        options = {"binary": CHROMIUM, "args": [*FLAGS, f"--user-data-dir={profile}"]}
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"},
        }
        made = _ask("POST", f"{address}/session", {"capabilities": {"alwaysMatch": wanted}})
        session = f"{address}/session/{made['sessionId']}"
        try:
            yield Browser(session)
        finally:
            _ask("DELETE", session)
    finally:
        driver.terminate()
        driver.wait()
        shutil.rmtree(profile, ignore_errors=True)


def wait_for(happened: Callable[[], Any], what: str, timeout_s: float = 60) -> Any:
    """What ``happened`` returns as soon as that is true."""
    deadline = time.monotonic() + timeout_s
    while not (result := happened()):
        assert time.monotonic() < deadline, f"nothing happened: {what}"
        time.sleep(0.05)
    return result


def _ask(method: str, url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with _DIRECT.open(request, timeout=120) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{method} {url}: {error.read().decode()[:2000]}") from error
