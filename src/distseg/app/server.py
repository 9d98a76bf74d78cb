"""The server around the page: its address, what the browser may fetch, files to download, and its end.

Gradio is mounted into an application of ours instead of launched: a launch looks for a free port by itself, asks its
own address through whatever proxy is set, and leaves no room for headers.
"""

import re
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr
import uvicorn
from fastapi import FastAPI, Query
from fastapi.responses import FileResponse, PlainTextResponse, Response

from distseg.app.address import is_loopback
from distseg.app.desk import Desk
from distseg.app.page import Page, look
from distseg.app.samples import draw_samples
from distseg.app.study import StudyTab
from distseg.app.upload import Limits
from distseg.app.users import Users
from distseg.errors import InputError
from distseg.predict.answer import Answerer
from distseg.predict.pictures import jpeg

_SESSIONS_MAX = 100  # open pages of which Gradio keeps what they show
_ENDING_S = 2
_FORM_BYTES = 1 << 16  # around an upload
_PORT = re.compile(r":\d+$")
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
"""Content-Security-Policy: the browser itself refuses whatever would be fetched from elsewhere."""
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


@dataclass(frozen=True)
class Site:
    """What is served to whom."""

    name: str
    """Of the model's file."""
    answerer: Answerer
    study: Path | None = None
    users: Users | None = None


def serve(site: Site, bound: socket.socket, folder: Path, ready: Callable[[], None]) -> None:
    """Serves until SIGINT or SIGTERM, which is raised again at the end; ``ready`` is called once it answers.

    ``folder`` is for files; Gradio's own folder must be ``folder / "uploads"`` (``GRADIO_TEMP_DIR``).
    """
    config = uvicorn.Config(
        build(site, folder), log_level="warning", timeout_graceful_shutdown=_ENDING_S, lifespan="on", access_log=False
    )
    _Server(config, ready).run(sockets=[bound])


def build(site: Site, folder: Path) -> FastAPI:
    """The application: the page, files to download, a study's report."""
    manifest = site.answerer.manifest
    desk = Desk(site.answerer, Limits.of(manifest))
    uploads = folder / "uploads"
    uploads.mkdir(exist_ok=True)
    samples = _samples(desk, manifest.task, folder)
    study = None if site.study is None else StudyTab(site.study, folder)
    blocks = Page(site.name, manifest, site.answerer.device.type, desk, samples, uploads, study).build()
    blocks.state_session_capacity = _SESSIONS_MAX
    blocks.has_launched = True  # else Gradio takes any path on this machine for an upload
    web = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    web.add_middleware(_Guard, upload_bytes=desk.limits.upload_bytes, any_name=site.users is not None)
    _serve_files(web, desk)
    if study is not None:
        _serve_report(web, study)
    mounted: FastAPI = gr.mount_gradio_app(
        web,
        blocks,
        path="/",
        footer_links=[],
        run_history=False,
        auth=None if site.users is None else site.users.admits,
        max_file_size=desk.limits.upload_bytes,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        root_path="",
        **look(),
    )
    return mounted


def _samples(desk: Desk, task: str, folder: Path) -> list[Path]:
    """Draws them, and shows them to the model: its first answers take longer than all others."""
    paths = []
    for name, pixels in draw_samples(task):
        path = folder / name
        path.write_bytes(jpeg(pixels))
        desk.answer(path.read_bytes(), name, "samples", 0.5, 0.5)
        paths.append(path)
    desk.drop("samples")
    return paths


def _serve_files(web: FastAPI, desk: Desk) -> None:
    @web.get("/kept/{token}/{what}")
    def kept(
        token: str, what: str, threshold: float = Query(ge=0, le=1), opacity: float = Query(default=0.5, ge=0, le=1)
    ) -> Response:
        try:
            file = desk.file(token, what, threshold, opacity)
        except InputError as error:
            return PlainTextResponse(str(error), status_code=404)
        disposition = f"attachment; filename*=UTF-8''{quote(file.name)}"
        return Response(file.data, media_type=file.media_type, headers={"Content-Disposition": disposition})


def _serve_report(web: FastAPI, study: StudyTab) -> None:
    @web.get("/report/{token}")
    def report(token: str) -> Response:
        if not secrets.compare_digest(token, study.token) or not study.report.exists():
            return PlainTextResponse("No such report. Please open it from the page.", status_code=404)
        return FileResponse(study.report, media_type="text/html")


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


class _Guard:
    """Headers on every answer; no body that is larger than an upload, or of unknown size.

    Where nobody has to log in, no request by any name but this computer's own for itself: a name of a stranger's that
    leads here would let their page read ours.
    """

    def __init__(self, app: Any, upload_bytes: int, any_name: bool) -> None:
        self._app = app
        self._body_bytes_max = upload_bytes + _FORM_BYTES
        self._any_name = any_name

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = message | {"headers": [*message["headers"], *_HEADERS]}
            await send(message)

        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        if b"transfer-encoding" in headers or not length.isdigit() or int(length) > self._body_bytes_max:
            refusal = PlainTextResponse("This is more than the page takes at once.", status_code=413)
            await refusal(scope, receive, guarded)
            return
        name = _PORT.sub("", headers.get(b"host", b"").decode("latin-1")).strip("[]")
        if not (self._any_name or is_loopback(name)):
            refusal = PlainTextResponse("This page is at http://127.0.0.1 or http://localhost.", status_code=421)
            await refusal(scope, receive, guarded)
            return
        await self._app(scope, receive, guarded)
