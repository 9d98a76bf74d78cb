"""The page in a real browser, headless: what a reader sees and does, and that nothing is asked of other machines."""

import base64
import http.client
import io
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from chromium import _DIRECT as DIRECT
from chromium import CHROMEDRIVER, CHROMIUM, MISSING, Browser, browser, wait_for
from commands import DISTSEG, distseg, kill
from page_models import CLASSES, two_colours, write_model
from PIL import Image
from studies import searched_study

from distseg.predict.pictures import png

in_browser = pytest.mark.skipif(CHROMIUM is None or CHROMEDRIVER is None, reason=MISSING)
PICTURE = "#picture img"
SET = """const box = document.querySelector(`input[type=range][aria-label*="${arguments[0]}"]`);
box.value = arguments[1]; box.dispatchEvent(new Event('input', {bubbles: true}));"""
LOADED = "const one = document.querySelector(arguments[0]); return one && one.complete && one.naturalWidth && one.src"
PIXEL = """const image = document.querySelector('#picture img'), canvas = document.createElement('canvas');
canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
const sheet = canvas.getContext('2d'); sheet.drawImage(image, 0, 0);
return [...sheet.getImageData(arguments[0], arguments[1], 1, 1).data].slice(0, 3)"""

PASTE = """const bytes = Uint8Array.from(atob(arguments[0]), one => one.charCodeAt(0)), data = new DataTransfer();
data.items.add(new File([bytes], 'pasted.png', {type: 'image/png'}));
document.body.dispatchEvent(new ClipboardEvent('paste', {clipboardData: data, bubbles: true, cancelable: true}));"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, a home with a study, pictures, users."""
    folder = tmp_path_factory.mktemp("page")
    for task in CLASSES:
        write_model(folder / f"{task}.ts", task)
    searched_study(folder / "home/studies/cars")
    (folder / "garden.png").write_bytes(png(two_colours(400, 200)))
    (folder / "notes.png").write_text("no image at all")
    (folder / "users").write_text("anna:right password\n")
    (folder / "users").chmod(0o600)
    (folder / "temporary").mkdir()
    return folder


class Served:
    """A ``distseg app`` that runs."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.log = (folder / f"{words[0]}.log").open("w+")
        settings = {"TMPDIR": str(folder / "temporary"), "DISTSEG_HOME": str(folder / "home"), "GRADIO_SHARE": "True"}
        self.process = subprocess.Popen(
            [*DISTSEG, "app", str(folder / words[0]), "--port", "0", *words[1:]],
            env=os.environ | settings,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )

    @property
    def url(self) -> str:
        """As the command says it, once it is ready."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert " on http://127.0.0.1:" in line, Path(self.log.name).read_text()
        return line.split(" on ")[1].split()[0]

    def end(self) -> None:
        kill(self.process)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.log.close()


@pytest.fixture(scope="module")
def servers(folder: Path) -> Iterator[tuple[Served, Served]]:
    """One that anybody on this machine may open, and one with users and a study; they start at once."""
    both = (
        Served(folder, "binary.ts"),
        Served(folder, "instance.ts", "--auth-file", str(folder / "users"), "--study", "cars"),
    )
    yield both
    for served in both:
        served.end()


@pytest.fixture(scope="module")
def opened(servers: tuple[Served, Served]) -> str:
    return servers[0].url


@pytest.fixture(scope="module")
def guarded(servers: tuple[Served, Served]) -> str:
    return servers[1].url


@pytest.fixture
def window(tmp_path: Path) -> Iterator[Browser]:
    with browser(tmp_path) as one:
        yield one


def legend(window: Browser) -> dict[str, str]:
    """Names and figures of the table below the picture."""
    rows = window.run(
        """return [...document.querySelectorAll('#findings tr')].map(
        row => [row.querySelector('th').innerText, row.querySelector('.figure').innerText])"""
    )
    return dict(rows)


def shows(window: Browser, before: str = "") -> str:
    """Address of the picture shown, once it is another one than before."""
    return str(wait_for(lambda: (now := window.run(LOADED, PICTURE)) and now != before and now, "another picture"))


@in_browser
def test_upload_mask_slider_files_and_a_bad_file(opened: str, folder: Path, window: Browser) -> None:
    window.size(1200, 900)
    window.open(opened)
    window.type("#image input[type=file]", str(folder / "garden.png"))
    first = shows(window)
    red, green, blue = window.run(PIXEL, 50, 100)  # 204, 51, 0 below half of 255, 60, 60
    assert abs(red - 229) < 12
    assert abs(green - 55) < 12
    assert abs(blue - 30) < 12
    assert legend(window) == {"background": "50.0 %", "rose": "50.0 %"}
    assert "The model took" in window.text("#findings .timing")

    window.run(SET, "Threshold", "0.9")  # above 0.8: nothing is rose
    second = shows(window, first)
    red, green, blue = window.run(PIXEL, 50, 100)
    assert abs(red - 204) < 12
    assert blue < 12
    assert legend(window) == {"background": "100.0 %"}
    assert "Not seen: rose." in window.text("#findings")

    window.run(SET, "Opacity", "1")
    window.run(SET, "Threshold", "0.3")  # below 77 / 255: all is rose
    shows(window, second)
    wait_for(lambda: legend(window) == {"rose": "100.0 %"}, "all rose")
    wait_for(lambda: abs(window.run(PIXEL, 300, 100)[2] - 60) < 12, "no picture through full colour")

    links = window.run("return [...document.querySelectorAll('#findings nav a')].map(link => link.href)")
    mask, overlay, runs = (DIRECT.open(link, timeout=60).read() for link in links)
    assert np.asarray(Image.open(io.BytesIO(mask))).all()
    assert (np.asarray(Image.open(io.BytesIO(overlay)))[:, 300] == (255, 60, 60)).all()
    assert runs.decode() == "img,rle_mask\ngarden.png,1 80000\n"

    window.click("#image button[aria-label='Remove Image']")
    wait_for(lambda: not window.text("#findings"), "cleared")
    window.type("#image input[type=file]", str(folder / "notes.png"))
    wait_for(lambda: "notes.png is not an image that this page can read" in window.text("#sentence"), "a sentence")
    assert window.run(LOADED, PICTURE) in (None, False, "")
    assert "Traceback" not in window.run("return document.body.innerText")
    assert window.hosts() == {"127.0.0.1"}
    assert [line for line in window.console() if "Content Security Policy" in line] == []


@in_browser
def test_a_sample_and_a_pasted_image_on_a_phone(opened: str, folder: Path, window: Browser) -> None:
    window.size(390, 800)
    window.open(opened)
    window.click(".gallery button, .gallery-item")
    first = shows(window)
    assert "640 x 480 pixels" in window.text("#findings")
    assert window.run("return document.documentElement.scrollWidth - innerWidth") <= 0
    window.run(PASTE, base64.b64encode((folder / "garden.png").read_bytes()).decode())
    shows(window, first)
    wait_for(lambda: "400 x 200 pixels" in window.text("#findings"), "the pasted image")


@in_browser
def test_a_wrong_password_stays_out_and_the_right_one_sees_objects_and_the_study(
    guarded: str, folder: Path, window: Browser
) -> None:
    window.open(guarded)
    for password in ("wrong password", "right password"):
        window.find("input[type=password]")
        window.run("document.querySelectorAll('input').forEach(box => { box.value = '' })")
        window.type("input:not([type=password])", "anna")
        window.type("input[type=password]", password)
        assert not window.run("return document.querySelector('#image')")
        window.click("button.primary, form button, button")
        if password == "wrong password":
            wait_for(lambda: "ncorrect" in window.run("return document.body.innerText"), "refused")
            for path in ("config", "gradio_api/queue/data?session_hash=x", "gradio_api/info"):
                with pytest.raises(urllib.error.HTTPError, match="401"):
                    DIRECT.open(f"{guarded}/{path}", timeout=60)
            window.open(guarded)
    window.type("#image input[type=file]", str(folder / "garden.png"))
    shows(window)
    assert legend(window) == {"leaf": "0.90"}
    window.run(SET, "score", "0.2")
    wait_for(lambda: legend(window) == {"leaf": "0.90", "coin": "0.40"}, "the less sure object")
    window.run("[...document.querySelectorAll('button[role=tab]')].at(-1).click()")
    wait_for(lambda: "dice_mean_per_image" in window.text("#board"), "the leaderboard")
    source = window.wait("return document.querySelector('#report iframe')?.src")
    report = DIRECT.open(source, timeout=60).read().decode()
    assert "<title>Study cars</title>" in report
    with pytest.raises(urllib.error.HTTPError, match="404"):
        DIRECT.open(f"{guarded}/report/guess", timeout=60)
    assert window.hosts() == {"127.0.0.1"}


def test_only_what_was_sent_is_opened_and_only_so_much(opened: str, folder: Path) -> None:
    """Not by the page, but by a program that speaks as it does."""
    config = json.load(DIRECT.open(f"{opened}/config", timeout=60))
    image = next(each["id"] for each in config["components"] if each["props"].get("elem_id") == "image")
    move = next(each["id"] for each in config["dependencies"] if [image, "change"] in each["targets"])

    def ask(path: str) -> str:
        body = {"data": [{"path": path}, 0.5, 0.5], "fn_index": move, "session_hash": "other"}
        kind = {"Content-Type": "application/json"}
        joined = urllib.request.Request(f"{opened}/gradio_api/queue/join", json.dumps(body).encode(), kind)
        DIRECT.open(joined, timeout=60).read()
        with DIRECT.open(f"{opened}/gradio_api/queue/data?session_hash=other", timeout=60) as events:
            return next(line for line in map(bytes.decode, events) if "process_completed" in line)

    answer = ask(str(folder / "garden.png"))
    assert "data-model-ms" not in answer
    assert str(folder / "garden.png") not in json.loads(answer[5:])["output"].get("data", "")
    server = http.client.HTTPConnection(opened.removeprefix("http://"), timeout=60)
    for name, value in (("Content-Length", "21100000"), ("Transfer-Encoding", "chunked")):
        server.putrequest("POST", "/gradio_api/upload")
        server.putheader(name, value)
        server.endheaders()
        assert server.getresponse().status == 413
        server.close()
    with pytest.raises(urllib.error.HTTPError, match="421"):
        DIRECT.open(urllib.request.Request(opened, headers={"Host": "stranger.example:80"}), timeout=60)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        DIRECT.open(f"{opened}/kept/guess/mask.png?threshold=0.5", timeout=60)


def test_wrong_calls_are_told_in_one_line(folder: Path, opened: str) -> None:
    port = opened.rpartition(":")[2]
    (folder / "open_users").write_text("anna:x\n")
    (folder / "open_users").chmod(0o644)
    model = folder / "binary.ts"
    for words, told in (
        ((model, "--port", port), f"--port {port}: cannot be served there"),
        ((model, "--host", "0.0.0.0"), "would let anybody on the network in"),
        ((model, "--auth-file", folder / "open_users"), "chmod 600"),
        ((model, "--study", "none"), "study 'none': not found"),
    ):
        error = distseg(folder / "home", "app", *words, code=2).stderr
        assert told in error
        assert error.count("\n") == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_ends_cleanly_and_leaves_nothing(
    servers: tuple[Served, Served], folder: Path, number: int, code: int
) -> None:
    served = servers[number == signal.SIGTERM]
    started = time.monotonic()
    served.process.send_signal(number)
    assert served.process.wait(20) == code
    assert time.monotonic() - started < 10
    text = Path(served.log.name).read_text()
    assert text == ("distseg: interrupted\n" if code == 130 else "")
    if code == 143:
        assert list((folder / "temporary").glob("distseg*")) == []
