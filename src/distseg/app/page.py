"""What stands on the page, and which function answers which move; Gradio's side of it alone."""

import functools
import secrets
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import gradio as gr

from distseg.app import fragments
from distseg.app.desk import Desk, Shown
from distseg.app.study import StudyTab
from distseg.errors import DistsegError, InputError
from distseg.records import ExportManifest

KEPT_MINUTES = 10
"""After which what was sent, and what was drawn, is deleted from the disk."""
_LOOKED_AT_S = 60
_WAITING_MAX = 200
_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica", "Arial", "sans-serif")
_BROKEN = "Something went wrong on the server; its terminal says what. Please try another image."


@dataclass(frozen=True)
class Threshold:
    """The slider's words and where it stands at first."""

    label: str
    info: str
    value: float

    @classmethod
    def of(cls, manifest: ExportManifest) -> "Threshold":
        if manifest.task == "binary":
            return cls("Threshold", f"Marked as {manifest.classes[1]} where its probability is above this", 0.5)
        if manifest.task == "multiclass":
            return cls("Least probability", "Left untinted where no class is more probable than this", 0.0)
        return cls("Least score", "Objects of which the model is less sure are left out", 0.5)


@dataclass(frozen=True)
class Page:
    """Everything that the page needs; ``uploads`` is Gradio's folder for files."""

    name: str
    manifest: ExportManifest
    device: str
    desk: Desk
    samples: Sequence[Path]
    uploads: Path
    study: StudyTab | None

    def build(self) -> gr.Blocks:
        """The layout with its events wired."""
        blocks = gr.Blocks(
            title=f"{self.name} - distseg",
            analytics_enabled=False,
            delete_cache=(_LOOKED_AT_S, 60 * KEPT_MINUTES),
        )
        with blocks:
            gr.HTML(fragments.heading(self.name, self.manifest, self.device))
            if self.study is None:
                self._trial()
            else:
                with gr.Tabs():
                    with gr.Tab("Try it"):
                        self._trial()
                    with gr.Tab("Leaderboard and report") as tab:
                        _study(self.study, tab)
            blocks.unload(self._leave)
        blocks.queue(max_size=_WAITING_MAX, default_concurrency_limit=1)
        return blocks

    def _trial(self) -> None:
        words = Threshold.of(self.manifest)
        with gr.Row(elem_classes="trial"):
            with gr.Column(scale=2, min_width=300):
                image = gr.Image(
                    label="Your image",
                    sources=["upload"],
                    placeholder="Drop an image here, paste one (Ctrl-V), or click to choose a file",
                    type="filepath",
                    image_mode=None,
                    height=260,
                    buttons=[],
                    elem_id="image",
                )
                # Gradio would open the file, and of one that is no image say what PIL says; the desk has a sentence
                setattr(image, "preprocess", _path_of)  # noqa: B010
                gr.Examples([[str(path)] for path in self.samples], image, label="Or a sample", cache_examples=False)
            with gr.Column(scale=5, min_width=300):
                sentence = gr.HTML(elem_id="sentence")
                picture = gr.Image(
                    label="What the model sees",
                    interactive=False,
                    format="jpeg",
                    buttons=["fullscreen"],
                    elem_id="picture",
                    alt_text="The image with what the model found in it",
                )
                with gr.Row():
                    threshold = gr.Slider(
                        0, 0.99, words.value, step=0.01, label=words.label, info=words.info, min_width=260
                    )
                    opacity = gr.Slider(
                        0, 1, 0.5, step=0.05, label="Opacity", info="Of the colours over the picture", min_width=260
                    )
                findings = gr.HTML(elem_id="findings")
        gr.HTML(fragments.terms(self.desk.limits, KEPT_MINUTES))
        shown = [picture, findings, sentence]
        settings = [threshold, opacity]
        answered = image.change(
            self._answer,
            [image, *settings],
            shown,
            show_progress="minimal",
            concurrency_limit=1,
            api_visibility="private",
        )
        # one event for both sliders: of two, the earlier one's picture might come last. Not queued: Gradio closes the
        # stream of a page's queued answers with the last of them, and the answer to a move sent meanwhile is lost
        for event in (answered.then, functools.partial(gr.on, [threshold.input, opacity.input])):
            event(
                self._redraw,
                settings,
                shown,
                show_progress="hidden",
                trigger_mode="always_last",
                queue=False,
                api_visibility="private",
            )

    def _answer(self, path: str | None, threshold: float, opacity: float, request: gr.Request) -> Any:
        session = str(request.session_hash)
        if path is None:
            self.desk.drop(session)
            return None, "", ""
        return self._views(lambda: self._ask(Path(path), session, threshold, opacity), threshold, opacity)

    def _ask(self, path: Path, session: str, threshold: float, opacity: float) -> Shown:
        self.desk.drop(session)  # what was there before is not the answer to what comes now
        if not path.resolve().is_relative_to(self.uploads.resolve()):
            raise InputError("This page answers images that were sent to it, and no other files.")
        try:
            data = path.read_bytes()
        except OSError:
            raise InputError("This image is no longer on the server. Please send it again.") from None
        return self.desk.answer(data, path.name, session, threshold, opacity)

    def _redraw(self, threshold: float, opacity: float, request: gr.Request) -> Any:
        """Also after each answer, for sliders that were moved meanwhile."""
        return self._views(lambda: self.desk.redraw(str(request.session_hash), threshold, opacity), threshold, opacity)

    def _leave(self, request: gr.Request) -> None:
        self.desk.drop(str(request.session_hash))

    def _views(self, show: Callable[[], Shown | None], threshold: float, opacity: float) -> Any:
        """File of the picture, findings and sentence as HTML; all stay as they are when there is nothing to show."""
        try:
            shown = show()
            if shown is None:
                return gr.skip(), gr.skip(), gr.skip()
            folder = self.uploads / secrets.token_urlsafe(16)  # in Gradio's folder: not copied, deleted too
            folder.mkdir()
            picture = folder / f"{Path(shown.kept.name).stem}.jpg"
            picture.write_bytes(shown.picture)
        except DistsegError as error:
            return None, "", fragments.sentence(str(error))
        except Exception:
            traceback.print_exc(file=sys.stderr)
            return None, "", fragments.sentence(_BROKEN)
        return str(picture), fragments.findings(shown, threshold, opacity), ""


def look() -> dict[str, Any]:
    """Theme, style and script, for ``mount_gradio_app``: the machine's own fonts, for none are fetched."""
    theme = gr.themes.Default(
        primary_hue="teal",
        neutral_hue="slate",
        font=_FONTS,
        font_mono=("ui-monospace", "Consolas", "monospace"),
    )
    style, script = (resources.files("distseg.app").joinpath(name).read_text() for name in ("page.css", "page.js"))
    return {"theme": theme, "css": style, "js": script}


def _study(study: StudyTab, tab: gr.Tab) -> None:
    again = gr.Button("Refresh", size="sm", scale=0)
    board, report = gr.HTML(elem_id="board"), gr.HTML(elem_id="report")
    for event in (tab.select, again.click):
        event(lambda: _said(study.board), None, board, show_progress="minimal", api_visibility="private").then(
            lambda: _said(study.frame), None, report, show_progress="minimal", api_visibility="private"
        )


def _said(make: Callable[[], str]) -> str:
    try:
        return make()
    except DistsegError as error:
        return fragments.sentence(str(error))
    except Exception:
        traceback.print_exc(file=sys.stderr)
        return fragments.sentence(_BROKEN)


def _path_of(payload: Any) -> str | None:
    return None if payload is None else payload.path
