"""Photos with the boxes of their objects: folders as YOLO has them, and the photos of COCO in `SPARRING_DATA`.

Photos have many sizes and are made one size when they are read. Boxes are shares, and follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sparring.data.arrays import Array, Lazy
from sparring.data.folders import inside
from sparring.data.named import given
from sparring.data.npz import arrays, read_npz
from sparring.data.pictures import ENDINGS, decode
from sparring.domains.driving.detectors import Fit, Place, letterboxed, stretched
from sparring.domains.driving.predictions import NONE
from sparring.errors import BadInput, line

COCO = tuple(
    """
person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,bench,
bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,skis,snowboard,
sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,knife,spoon,
bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,potted plant,bed,dining table,
toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,refrigerator,book,clock,vase,scissors,
teddy bear,hair drier,toothbrush""".replace("\n", "").split(",")
)
"""The 80 classes, in the order of the labels."""


@dataclass(frozen=True, eq=False)
class Photos:
    """Encoded photos, decoded and made one size when they are asked for, `(B, 3, H, W)` in [0, 1]."""

    sources: tuple[Path | bytes, ...]
    size: tuple[int, int]
    fit: Fit

    def __call__(self, rows: Sequence[int]) -> Tensor:
        """Some of the photos."""
        return torch.cat([self.fit(self.photo(i), *self.size)[0] for i in rows]) if rows else torch.empty(0)

    def place(self, i: int) -> Place:
        """Where a photo lies in what it is made; its pixels stay unread."""
        source = self.sources[i]
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
            blank = torch.empty(1, 1, image.height, image.width, device="meta")
        return self.fit(blank, *self.size)[1]

    def photo(self, i: int) -> Tensor:
        """A photo as it is, `(1, 3, h, w)`."""
        source = self.sources[i]
        pixels = decode(BytesIO(source), f"photo {i}") if isinstance(source, bytes) else decode(source, f"'{source}'")
        return torch.from_numpy(np.ascontiguousarray(pixels)).unsqueeze(0).float().div_(255)


def load_yolo(folder: Path, size: tuple[int, int] = (416, 416), fit: Fit = letterboxed) -> Lazy:
    """A folder of photos, each with a text file of its objects: lines `class cx cy w h`, in shares of the photo.

    Photos lie anywhere in it. The text of one has its name, and lies beside it, or in a folder `labels` where the
    photo's is `images`. A photo without one has no objects. A `classes.txt` names the classes, one a line. `size` is
    the height and width that all are given by `fit`. Labels are `(N, M, 5)`, as the tasks of a detector take them.

    Raises:
        BadInput: no photos, or no texts; a file that is no image; a line that is no box.
    """
    files = inside(folder, ENDINGS)
    if not files:
        raise BadInput(f"'{folder}' holds no images", "photos, and a text of boxes for each", "check the path")
    texts = [_text(file) for file in files]
    if not any(text.is_file() for text in texts):
        need = f"labels such as '{texts[0]}'"
        raise BadInput(f"'{folder}' holds no labels", need, "put them there")
    boxes = [_boxes(text) if text.is_file() else np.zeros((0, 5), np.float32) for text in texts]
    names = folder / "classes.txt"
    classes = tuple(names.read_text(encoding="utf-8").split("\n")) if names.is_file() else ()
    photos = Photos(tuple(files), size, fit)
    return Lazy(folder.resolve().name, photos, _padded(photos, boxes), tuple(filter(None, classes)))


def coco_val(size: tuple[int, int] = (352, 352), fit: Fit = stretched) -> Lazy:
    """96 photos of COCO's validation set of 2017 with their 658 objects, of `SPARRING_DATA/driving/coco_val96.npz`.

    They are stretched to what FastestDet takes, unless told otherwise.

    Raises:
        BadInput: the file is not there.
    """
    place = given("driving/coco_val96.npz")
    if place is None:
        do = "set SPARRING_DATA, or read a folder with load_yolo"
        raise BadInput("no photos of COCO", "driving/coco_val96.npz in the folder SPARRING_DATA", do)
    names = sorted(name.removeprefix("jpg_") for name in arrays(place) if name.startswith("jpg_"))
    held = read_npz(place, [tuple(f"{kind}_{name}" for kind in ("jpg", "box") for name in names)])
    photos = Photos(tuple(one.tobytes() for one in held[: len(names)]), size, fit)
    return Lazy("coco-val96", photos, _padded(photos, held[len(names) :]), COCO)


def _text(file: Path) -> Path:
    """Where the boxes of a photo are."""
    beside = file.with_suffix(".txt")
    places = [i for i, part in enumerate(file.parts) if part == "images"]
    if beside.is_file() or not places:
        return beside
    return Path(*file.parts[: places[-1]], "labels", *beside.parts[places[-1] + 1 :])


def _boxes(text: Path) -> Array:
    """The rows of a text, `(M, 5)`."""
    need = "lines of class, cx, cy, w, h, in shares of the photo"
    try:
        rows = [[float(word) for word in row.split()] for row in text.read_text(encoding="utf-8").splitlines() if row]
    except (OSError, ValueError) as error:
        raise BadInput(f"'{text}' cannot be read ({line(error)})", need, "correct it") from error
    for number, row in enumerate(rows, 1):
        whole = len(row) == 5 and row[0] >= 0 and row[0] == int(row[0])
        if not whole or not all(0 <= share <= 1 for share in row[1:]) or min(row[3:]) <= 0:
            raise BadInput(f"line {number} of '{text}' is no box", need, "correct it")
    return np.array(rows, dtype=np.float32).reshape(-1, 5)


def _padded(photos: Photos, boxes: Sequence[Array]) -> Array:
    """Labels `(N, M, 5)` of class and corners, where the photos are put; -1 where a photo has no more objects."""
    labels = np.full((len(boxes), max(1, *map(len, boxes)), 5), NONE, dtype=np.float32)
    labels[..., 1:] = 0
    for i, (label, rows) in enumerate(zip(labels, boxes, strict=True)):
        if not len(rows):
            continue
        left, top, across, down = photos.place(i)
        centre, half = rows[:, 1:3], rows[:, 3:5] / 2
        corners = np.concatenate([centre - half, centre + half], 1)
        label[: len(rows), 0] = rows[:, 0]
        label[: len(rows), 1:] = corners * [across, down, across, down] + [left, top, left, top]
    return labels
