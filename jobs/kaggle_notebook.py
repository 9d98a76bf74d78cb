"""Writes submission.csv in an offline Kaggle notebook: torch, numpy and OpenCV (or PIL), and nothing of distseg.

Paste it into a cell below the line `%%writefile kaggle_notebook.py`, or attach it with model.ts as a data set. Then, in
another cell,

    !python kaggle_notebook.py MODEL.ts ... --images DIR [--sample sample_submission.csv] [--out CSV]

The rows are those of `distseg submission` byte for byte, on the same device and with the same decoder, as images are
batched by the same rule: those of one shape among 16 neighbours. Binary models; several are averaged.
"""

import argparse
import csv
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import torch

CHUNK, BATCH_MAX, BATCH_PIXELS = 16, 16, 1 << 23
ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def read_image(path):
    """(H, W, 3) uint8 RGB, upright."""
    try:
        import cv2
    except ImportError:  # PIL rounds some JPEGs otherwise: rows may then differ from distseg's by single pixels
        from PIL import Image, ImageOps

        with Image.open(path) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise SystemExit(f"{path}: cannot be decoded")
    return np.ascontiguousarray(image[..., ::-1])


def run_lengths(mask, order, first):
    """Mask (H, W) -> 'start length start length ...'."""
    flat = np.pad(mask.ravel("C" if order == "row-major" else "F"), 1)
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    edges[1::2] -= edges[::2]
    edges[::2] += first
    return " ".join(map(str, edges.tolist()))


def load(path, device):
    extra = {"distseg.json": ""}
    module = torch.jit.load(path, map_location=device, _extra_files=extra)
    task = json.loads(extra["distseg.json"])["task"]
    if task != "binary":
        raise SystemExit(f"{path}: a model of task {task}, want binary")
    return module


@torch.inference_mode()
def predict(models, images, tta):
    """uint8 (B, 3, H, W) -> masks uint8 (B, H, W)."""
    if len(models) == 1 and not tta:
        return models[0](images)
    total = None
    for model in models:
        for flipped in (False, True)[: 1 + tta]:
            found = model.probabilities(images.flip(-1) if flipped else images)
            found = found.flip(-1) if flipped else found
            total = found if total is None else total.add_(found)
    return (total.div_(len(models) * (1 + tta))[:, 0] > 0.5).to(torch.uint8)


def masks_of(chunk, models, device, tta):
    """Masks of a chunk of images, each (H, W), in its order."""
    groups, masks = {}, [None] * len(chunk)

    def flush(shape):
        places = groups.pop(shape)
        batch = torch.from_numpy(np.stack([chunk[place] for place in places])).permute(0, 3, 1, 2).to(device)
        for place, mask in zip(places, predict(models, batch, tta).cpu().numpy(), strict=True):
            masks[place] = mask

    for place, image in enumerate(chunk):
        groups.setdefault(image.shape, []).append(place)
        height, width, _ = image.shape
        if len(groups[image.shape]) == max(1, min(BATCH_MAX, BATCH_PIXELS // (height * width))):
            flush(image.shape)
    for shape in list(groups):
        flush(shape)
    return masks


def chunks(names, folder):
    """Decoded images, CHUNK at a time; the next chunk is decoded meanwhile."""
    with ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as pool:
        todo = iter(names)

        def decode():
            return [pool.submit(read_image, os.path.join(folder, name)) for name in islice(todo, CHUNK)]

        ahead = decode()
        while ahead:
            now, ahead = ahead, decode()
            yield [future.result() for future in now]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL.ts")
    parser.add_argument("--images", required=True, metavar="DIR")
    parser.add_argument("--sample", metavar="CSV", help="write its rows, in its order")
    parser.add_argument("--out", default="submission.csv", metavar="CSV")
    parser.add_argument("--order", choices=("row-major", "column-major"), default="row-major")
    parser.add_argument("--first", type=int, default=1, help="number of the first pixel")
    parser.add_argument("--tta", action="store_true", help="mean of the image and its mirror image")
    args = parser.parse_args()
    if os.path.isdir(args.out):
        parser.error(f"--out {args.out}: is a folder; give the path of a file")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = [load(path, device) for path in args.models]
    files = (name for name in os.listdir(args.images) if name.lower().endswith(ENDINGS) and not name.startswith("."))
    names, columns = sorted(files), ("img", "rle_mask")
    if args.sample:
        with open(args.sample, newline="", encoding="utf-8-sig") as file:
            columns, *rows = (row for row in csv.reader(file) if row)
        wanted = [row[0] for row in rows]
        if sorted(wanted) != names:
            odd = sorted(set(wanted) ^ set(names))[:5]
            raise SystemExit(
                f"{args.sample}: not the images of {args.images}: {', '.join(odd) or 'an id stands twice'}"
            )
        names = wanted
    done, part = 0, args.out + ".part"
    with open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for chunk in chunks(names, args.images):
            masks = masks_of(chunk, models, device, args.tta)
            for name, mask in zip(names[done : done + len(chunk)], masks, strict=True):
                writer.writerow((name, run_lengths(mask, args.order, args.first)))
            done += len(chunk)
            print(f"{done}/{len(names)}", file=sys.stderr, end="\r")
    os.replace(part, args.out)


if __name__ == "__main__":
    main()
