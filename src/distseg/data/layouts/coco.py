"""COCO's json of outlines, as COCO itself, most labelling tools and Label Studio's export write it.

SRC is the json, or a folder with one json in it or in its ``annotations``. Images are looked for under that folder
(for a json in a folder ``annotations``, under its parent): at their ``file_name``, in ``images``, and at last by the
name alone, because Label Studio writes paths of its server there: ``images\\\\a.jpg``, ``../../data/upload/1/a.jpg``,
``/data/local-files/?d=a%20b.jpg``. That is a warning, for it may be another image of that name. A path never leads out
of the folder.
"""

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from distseg.data.findings import Finding, FindingError, error, unreadable_image, warning
from distseg.data.layouts.base import Corpus, Instance, LayoutOptions, RawSample
from distseg.data.layouts.coco_mask import compressed
from distseg.data.layouts.scan import (
    IMAGE_ENDINGS,
    NO_OPTIONS,
    Scan,
    grouping,
    key_of,
    refuse_class_options,
    visible_files,
    with_unique_keys,
)
from distseg.data.raw_image import shown_size
from distseg.errors import BadSampleError, DataError

_WANTED = "the coco layout wants a json with lists 'images', 'annotations' and 'categories'"
_JSON_REMEDY = "mend the json, or export it again"


class _Entry(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


_Side = Annotated[int, Field(gt=0, le=65_500)]  # libjpeg's limit
_Id = Annotated[int, Field(strict=True)]


class _Category(_Entry):
    id: _Id
    name: Annotated[str, Field(min_length=1)]


class _Image(_Entry):
    id: _Id
    file_name: Annotated[str, Field(min_length=1)]
    width: _Side
    height: _Side


class Annotation(_Entry):
    """One object; its outline is checked when it is read."""

    id: _Id
    image_id: _Id
    category_id: _Id
    segmentation: Any = None
    iscrowd: bool = False


_AnyEntry = TypeVar("_AnyEntry", _Category, _Image, Annotation)


@dataclass(frozen=True)
class Objects:
    """The objects of one image."""

    json: Path
    image: Path
    size: tuple[int, int]
    """(width, height) in pixels that the json gives."""
    annotations: tuple[Annotation, ...]
    labels: tuple[int, ...]
    """Class index of each annotation."""

    def read(self) -> tuple[Instance, ...]:
        """The objects with their masks; FindingError when the json gives another size than the image has, or an
        outline is none."""
        try:
            shown = shown_size(self.image)
        except BadSampleError as problem:
            raise FindingError(unreadable_image(self.image, problem.reason)) from problem
        if shown != self.size:
            message = "image is {}x{}, {} says {}x{}".format(*shown, self.json.name, *self.size)
            raise FindingError(error("size-differs", self.image, message, "label the image at its own size"))
        return tuple(
            Instance(label, self._counts(annotation), annotation.iscrowd)
            for label, annotation in zip(self.labels, self.annotations, strict=True)
        )

    def _counts(self, annotation: Annotation) -> str:
        width, height = self.size
        try:
            return compressed(annotation.segmentation, height, width)
        except BadSampleError as problem:
            message = f"annotation {annotation.id} of {self.image.name}: {problem.reason}"
            remedy = "draw its outline again, or remove the annotation"
            raise FindingError(error("bad-outline", self.json, message, remedy)) from problem


def scan(source: Path, options: LayoutOptions) -> Scan:
    """Images with their objects, none or more; classes are the categories in the order of their ids.

    Each image is a group of its own unless ``options.group_regex`` names it. DataError when there is no such json, and
    on options that name classes: the json does.
    """
    refuse_class_options("coco", options, "its json names the classes")
    path, root = _json_of(source)
    document = _loaded(path)
    findings: list[Finding] = []
    categories = _entries(path, document, "categories", _Category, findings)
    images = _entries(path, document, "images", _Image, findings)
    annotations = _entries(path, document, "annotations", Annotation, findings)
    label_of = {number: label for label, number in enumerate(sorted(categories))}
    names = tuple(categories[number].name for number in label_of)
    findings += (
        error("duplicate-class", path, f"two categories are named '{name}'", "rename one of the two")
        for name in sorted({name for name in names if names.count(name) > 1})
    )
    objects = _objects_by_image(path, images, label_of, annotations.values(), findings)
    places = _places(path, root, images, findings)
    keys = _keys(root, places.values())
    group_of = grouping(options.group_regex, keys.__getitem__)
    samples = []
    for number, place in places.items():
        own = tuple(objects.get(number, ()))
        labels = tuple(label_of[annotation.category_id] for annotation in own)
        size = images[number].width, images[number].height
        try:
            group = group_of(place)
        except FindingError as problem:
            findings.append(problem.finding)
        else:
            samples.append(RawSample(keys[place], group, place, instances=Objects(path, place, size, own, labels)))
    samples, twice = with_unique_keys(samples)
    return Scan(Corpus("coco", "instance", names, None, samples), (*findings, *twice))


def read(source: Path, options: LayoutOptions = NO_OPTIONS) -> Corpus:
    """What ``scan`` finds; DataError unless it is complete."""
    return scan(source, options).complete()


def _json_of(source: Path) -> tuple[Path, Path]:
    """The json, and the folder that its images are in."""
    if source.is_file():
        return source, _above_annotations(source.parent)
    if not source.is_dir():
        raise DataError(f"{source}: no such file or folder; {_WANTED}")
    for folder in (source, source / "annotations"):
        found = visible_files(folder, ".json") if folder.is_dir() else []
        if len(found) > 1:
            names = ", ".join(path.name for path in found[:5])
            raise DataError(f"{folder}: {len(found)} json files ({names}), want one; name it in place of the folder")
        if found:
            return found[0], source
    raise DataError(f"{source}: no json file; {_WANTED}")


def _above_annotations(folder: Path) -> Path:
    return folder.resolve().parent if folder.resolve().name == "annotations" else folder


def _loaded(path: Path) -> dict[str, list[Any]]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as problem:
        raise DataError(f"{path}: cannot be read as json ({problem}); {_WANTED}") from problem
    if not isinstance(document, dict):
        raise DataError(f"{path}: holds a {type(document).__name__}; {_WANTED}")
    for name in ("images", "annotations", "categories"):
        if not isinstance(document.get(name), list):
            raise DataError(f"{path}: no list '{name}'; {_WANTED}")
    if not document["images"] or not document["categories"]:
        counted = f"{len(document['images'])} images and {len(document['categories'])} categories"
        raise DataError(f"{path}: {counted}; {_WANTED}, one of each at least")
    return document


def _entries(
    path: Path, document: Mapping[str, list[Any]], name: str, model: type[_AnyEntry], findings: list[Finding]
) -> dict[int, _AnyEntry]:
    """The entries of one list by their ids; those that cannot be used become findings."""
    entries: dict[int, _AnyEntry] = {}
    for position, raw in enumerate(document[name]):
        try:
            entry = model.model_validate(raw)
        except ValidationError as problem:
            first = problem.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            message = f"{name}[{position}]{where and ' ' + where}: {first['msg']}"
            findings.append(error("bad-entry", path, message, _JSON_REMEDY))
            continue
        if entries.setdefault(entry.id, entry) is not entry:
            findings.append(error("duplicate-id", path, f"{name}[{position}]: a second id {entry.id}", _JSON_REMEDY))
    return entries


def _objects_by_image(
    path: Path,
    images: Mapping[int, _Image],
    label_of: Mapping[int, int],
    annotations: Iterable[Annotation],
    findings: list[Finding],
) -> dict[int, list[Annotation]]:
    objects: dict[int, list[Annotation]] = {}
    for annotation in annotations:
        if annotation.image_id not in images:
            message = f"annotation {annotation.id}: no image has id {annotation.image_id}"
            findings.append(error("unknown-image", path, message, _JSON_REMEDY))
        elif annotation.category_id not in label_of:
            message = f"annotation {annotation.id}: no category has id {annotation.category_id}"
            findings.append(error("unknown-category", path, message, _JSON_REMEDY))
        else:
            objects.setdefault(annotation.image_id, []).append(annotation)
    return objects


def _places(path: Path, root: Path, images: Mapping[int, _Image], findings: list[Finding]) -> dict[int, Path]:
    """The file of each image, by the image's id; what is missing or left over becomes a finding."""
    by_name: dict[str, list[Path]] = {}
    for file in _images_under(root):
        by_name.setdefault(file.name, []).append(file)
    places: dict[int, Path] = {}
    for number, image in images.items():
        given, found = _place(root, image.file_name, by_name)
        if len(found) == 1:
            places[number] = found[0]
            if not given:
                message = f"taken for '{image.file_name}' of {path.name}, because of its name alone"
                remedy = "see that it is the image that was labelled, or give its path from the folder"
                findings.append(warning("image-by-name", found[0], message, remedy))
        elif found:
            message, remedy = f"{path.name} may mean {found[0]} or {found[1]}", "give its path from the folder"
            findings.append(error("ambiguous-image", image.file_name, message, remedy))
        else:
            message, remedy = f"image of {path.name} is not under {root}", "copy it there, or remove it from the json"
            findings.append(error("missing-image", image.file_name, message, remedy))
    used = set(places.values())
    for file in itertools.chain.from_iterable(by_name.values()):
        if file not in used:
            message = f"image is not in {path.name} and will be left out"
            findings.append(warning("orphan-image", file, message, "label it, or list it in the json without objects"))
    return places


def _images_under(root: Path) -> Iterator[Path]:
    seen: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # links may make a loop
            folders.clear()
            continue
        seen.add(real)
        visible = [name for name in folders if not name.startswith(".")]
        links = {name for name in visible if Path(folder, name).is_symlink()}
        folders[:] = [*sorted(set(visible) - links), *sorted(links)]  # files by their own path, where they have one
        for name in sorted(files):
            if name.lower().endswith(IMAGE_ENDINGS) and not name.startswith("."):
                yield Path(folder, name)


def _place(root: Path, file_name: str, by_name: Mapping[str, Sequence[Path]]) -> tuple[bool, Sequence[Path]]:
    """Files that an entry may mean, and whether it says so itself: by its path, or by a name without one."""
    for name in (file_name, unquote(file_name)):
        given = PurePosixPath(name.replace("\\", "/").rpartition("?d=")[2])
        if not given.is_absolute() and ".." not in given.parts:
            for place in (root / given, root / "images" / given):
                if place.is_file():
                    return True, [place]
        if given.name in by_name:
            return len(given.parts) == 1, by_name[given.name]
    return False, []


def _keys(root: Path, places: Iterable[Path]) -> dict[Path, str]:
    """Keys by file: its stem or, when two files have one stem, its path under the root."""
    files = list(places)
    if len({file.stem for file in files}) == len(set(files)):
        return {file: key_of(file.stem) for file in files}
    return {file: key_of("-".join(file.relative_to(root).with_suffix("").parts)) for file in files}
