"""Between class-index masks and Label Studio's regions.

A mask is uint8 [H, W]: 0 background, 1..C-1 the classes, 255 unknown. Labels map by name, so that
a changed label config loses no more than it must: regions of a label that the version
does not know paint 255, and a class whose label is gone is withheld from pre-annotations.

``image_rotation`` needs no handling: the editor turns its view, and stores what is drawn in the
coordinates of the unturned image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2s
from types import MappingProxyType
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from acquisition.masks import BACKGROUND, UNKNOWN
from backend.errors import BadRegion
from backend.label_studio import bitmask, brush
from backend.label_studio.geometry import Mask, Patch, outline
from backend.label_studio.label_config import (
    KINDS,
    SHAPES,
    LabelConfig,
    Tag,
    is_background,
)
from backend.label_studio.region_counts import READ, Counts
from backend.label_studio.shapes import (
    check_inside,
    decoded_pixels,
    holds_shape,
    may_be_drawn,
    patch_of,
    shape_of,
)
from backend.shorten import shorten
from training.particles.instances import instances

ClassMask = npt.NDArray[np.uint8]
Region = dict[str, Any]
Per = Literal["class", "particle"]


# Of one task; beyond them Label Studio's editor freezes, which draws each on a canvas of its own.
MOST_BRUSHES = 100

# Sentences about one annotation that are written out; the rest is counted.
LISTED = 10

# More than a hand or a model draws on one image.
MOST_RESULTS = 2**16

# Results of one id that are one region: a shape, its labels, and answers about it.
MOST_PARTS = 64

# What the regions of an annotation may take to read, in pixels decoded or painted: 512 masks of
# 4096 x 4096, for which a few kilobytes each are enough. It takes 16 to 64 s.
MOST_EFFORT = 2**34

# Characters of a label by which regions are counted.
LONGEST_NAME = 100

QUOTES = "'\""

# What a canvas holds beside classes: nothing drawn; only what is not learnt from, such as a prompt;
# a region that is not understood.
_BARE, _BENEATH, _UNREAD = -1, -2, -3


# ---- out: a mask becomes regions ---------------------------------------------------------------


@dataclass(frozen=True)
class _Piece:
    """What becomes one region: a whole class, or one particle of it."""

    patch: Patch
    area: int


def to_regions(
    mask: ClassMask,
    confidence: npt.NDArray[np.floating],
    config: LabelConfig,
    classes: Sequence[str],
    *,
    per: Per,
    min_particle_px: int,
    split: Mapping[int, float] = MappingProxyType({}),
) -> list[Region]:
    """A predicted mask as Label Studio's regions, each with its own ``score``.

    A polygon has one outline, so polygons are one per particle whatever ``per`` says, and a hole
    of a particle is filled. Larger polygons come first: what lies in a hole is drawn, and read
    back, over what surrounds it.

    Args:
        mask: [H, W] uint8 class indices; 255 is left out.
        confidence: probability of the winning class, [H, W] or a smaller grid over the image.
        config: where to write; a class that no tag can write is withheld.
        classes: names by index; ``classes[0]`` is the background.
        per: one region for each class or for each particle.
        min_particle_px: particles of fewer pixels are left out.
        split: as for ``training.particles.instances``.

    Returns:
        Results as Label Studio stores them; ``score`` is the mean confidence over the region's
        pixels, between 0 and 1. The same arguments give the same ids.

    Raises:
        ValueError: a shape is wrong, or the mask holds an index that is no class.
    """
    _check(mask, confidence, classes)
    drawn: list[tuple[int, list[Region]]] = []
    for index in np.unique(mask).tolist():
        tag = None if index in (BACKGROUND, UNKNOWN) else config.tag_for(classes[index])
        if tag is None:
            continue
        if per == "particle" or tag.shape == "polygon":
            of_class = np.where(mask == index, mask, BACKGROUND)
            found = instances(of_class, min_particle_px, confidence=confidence, split=split)
            pieces = _particles(found.numbers)
        else:
            pieces = _whole_class(mask == index, min_particle_px)
        for n, piece in enumerate(pieces):
            score = _mean(confidence, piece.patch, mask.shape)
            results = _results(piece.patch, tag, classes[index], n, score, mask.shape)
            drawn.append((piece.area if tag.shape == "polygon" else 0, results))
    drawn.sort(key=lambda one: -one[0])
    return [result for _, results in drawn for result in results]


def drawn_regions(
    drawn: Iterable[tuple[str, Patch]], config: LabelConfig, size: tuple[int, int]
) -> list[Region]:
    """Labelled patches as regions, as if a person had drawn them: without a score.

    Larger polygons come first, as ``to_regions`` has them.

    Args:
        drawn: a label and its pixels, one at least; of a polygon they must be connected.
        size: (H, W) of the image in pixels.

    Returns:
        Results as Label Studio stores them. The same arguments give the same ids.

    Raises:
        BadRegion: no tag of the label config can hold a mask of the label.
    """
    found: list[tuple[int, list[Region]]] = []
    for n, (label, patch) in enumerate(drawn):
        tag = config.tag_for(label)
        if tag is None:
            raise BadRegion(
                f"No tag of the label config can hold a mask of {label!r}: give the label to "
                "BrushLabels, BitmaskLabels or PolygonLabels too."
            )
        area = int(patch.mask.sum()) if tag.shape == "polygon" else 0
        found.append((area, _results(patch, tag, label, n, 1.0, size)))
    found.sort(key=lambda one: -one[0])
    return [
        {key: value for key, value in result.items() if key != "score"}
        for _, results in found
        for result in results
    ]


def _check(mask: ClassMask, confidence: npt.NDArray[np.floating], classes: Sequence[str]) -> None:
    if mask.ndim != 2 or mask.dtype != np.uint8 or mask.size == 0:
        raise ValueError(f"mask must be uint8 [H, W], got {mask.dtype} of shape {mask.shape}")
    if confidence.ndim != 2 or confidence.size == 0:
        raise ValueError(f"confidence must be [h, w], got shape {confidence.shape}")
    known = mask[mask != UNKNOWN]
    if known.size and int(known.max()) >= len(classes):
        raise ValueError(f"mask holds class {int(known.max())}, there are {len(classes)} classes")


def _particles(numbers: npt.NDArray[np.int32]) -> Iterator[_Piece]:
    """Each particle [H, W] by its number from 1."""
    from scipy.ndimage import find_objects  # it takes long to load, and the web starts with this

    for number, (rows, columns) in enumerate(find_objects(numbers), start=1):
        part = numbers[rows, columns] == number
        yield _Piece(Patch(rows.start, columns.start, part), int(np.count_nonzero(part)))


def _whole_class(mask: Mask, min_px: int) -> Iterator[_Piece]:
    """All connected sets of at least ``min_px`` pixels as one piece, if there is any."""
    _, numbers, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    kept = areas >= min_px
    kept[0] = False  # what is not set
    if kept.any():
        whole = mask if kept[1:].all() else kept[numbers]
        yield _Piece(Patch(0, 0, whole), int(areas[kept].sum()))


def _mean(confidence: npt.NDArray[np.floating], patch: Patch, size: tuple[int, ...]) -> float:
    """Mean over the patch's pixels, each taking the cell of the grid that it lies in."""
    height, width = patch.mask.shape
    rows = np.arange(patch.top, patch.top + height) * confidence.shape[0] // size[0]
    columns = np.arange(patch.left, patch.left + width) * confidence.shape[1] // size[1]
    total = 0.0
    for at in range(0, height, 256):  # in strips, so that the sum needs no second full image
        cells = confidence[np.ix_(rows[at : at + 256], columns)]
        total += float(cells.sum(where=patch.mask[at : at + 256], dtype=np.float64))
    mean = total / int(np.count_nonzero(patch.mask))
    # Label Studio refuses what rounding has carried beyond 1.
    return round(min(1.0, max(0.0, mean)), 4)


def _results(
    patch: Patch, tag: Tag, label: str, n: int, score: float, size: tuple[int, ...]
) -> list[Region]:
    """A region: one result, or two of one id where one tag draws it and ``Labels`` names it."""
    height, width = size
    name = f"{tag.from_name}/{label}/{n}".encode()
    shape = _geometry(patch, tag.shape, (height, width))
    parts: list[tuple[str, str, Region]] = [(tag.from_name, tag.kind, {**shape, tag.kind: [label]})]
    if tag.drawn_by is not None:
        # As the editor keeps it; the server refuses labels without the shape beside them.
        parts.insert(0, (*tag.drawn_by, shape))
    return [
        {
            "id": blake2s(name, digest_size=8).hexdigest(),
            "from_name": from_name,
            "to_name": tag.to_name,
            "type": kind,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": value,
            "score": score,
        }
        for from_name, kind, value in parts
    ]


def _geometry(patch: Patch, shape: str, size: tuple[int, int]) -> Region:
    if shape == "brush":
        rle = brush.encode(patch.mask, at=(patch.top, patch.left), size=size)
        return {"format": "rle", "rle": rle}
    if shape == "bitmask":
        whole = np.zeros(size, dtype=np.uint8)
        patch.paint(whole, 1)
        return {"imageDataURL": bitmask.encode(whole.view(np.bool_))}
    # A ten-thousandth of a percent of 4096 px is a 250th of a pixel.
    points = outline(patch) * 100 / np.array([size[1], size[0]])
    return {"points": points.round(4).tolist(), "closed": True}


# ---- in: regions become a mask -----------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """What an annotation says.

    Attributes:
        mask: [H, W] uint8 class indices; 255 where nothing is known.
        unread: [H, W] bool, where that is so because a region was not understood; None where all
            were. The background of other annotators does not stand there (``merge_masks``).
        problems: a sentence for each region that was left out or whose class is unclear; of more
            than ``LISTED`` the rest in one.
        counts: regions by kind. ``region_counts`` says what was not understood.
    """

    mask: ClassMask
    unread: Mask | None
    problems: list[str]
    counts: Counts


def read_annotation(
    result: object,
    config: LabelConfig,
    classes: Sequence[str],
    size: tuple[int, int],
    *,
    unlabelled: int,
    unknown_label: str | None,
    aliases: Mapping[str, str] | None = None,
    drawn: Callable[[int, str | None, Patch], None] | None = None,
) -> Reading:
    """An annotation's regions as a class-index mask; a later region wins an overlap.

    Regions of other images and results without an area (choices, text, relations) are passed over.
    A label that ``classes`` lacks paints 255, as ``unknown_label`` does; one called "background"
    paints 0. A region that carries no label or several paints 255 and is reported. What lies
    outside the image is cut off. Nothing is known of an image whose result is no list,
    or holds more than can be read (``MOST_RESULTS``, ``MOST_EFFORT``).

    What is not understood never becomes background: it paints 255, and where its pixels cannot be
    told either, all that is not labelled is 255. Prompts and points paint 255 beneath the regions.

    Args:
        result: the annotation's ``result``, as whoever sent it left it.
        config: names the image whose regions are meant.
        classes: names by index; ``classes[0]`` is the background.
        size: (H, W) of the image in pixels.
        unlabelled: what a pixel without a region is, 0 or 255.
        unknown_label: the label that paints 255, if there is one.
        aliases: former names of labels, to what they are called now.
        drawn: called for each region that paints, in their order: with what it paints, its shape
            (``shape_of``) and its pixels.
    """
    if not isinstance(result, list | tuple):
        return _left_out(size, f"Its result must be a list of regions, got {shorten(result)}.")
    if len(result) > MOST_RESULTS:
        return _left_out(
            size,
            f"It has {len(result)} regions and answers, and at most {MOST_RESULTS} are read: draw "
            "what has one label as one region.",
        )
    names = _Names(config, classes, unknown_label, aliases or {})
    # A canvas and not the patches themselves, which together are any size.
    canvas = np.full(size, _BARE, dtype=np.int16)
    lost = False
    problems: list[str] = []
    counts: Counts = Counter()
    effort = 0
    for number, parts in _regions(result, config):
        kind, shape = _kind_of(parts, config)
        value: int | None = None
        unclear = ""
        try:
            effort += decoded_pixels(shape, size)
            if effort > MOST_EFFORT:
                break
            patch = patch_of(shape, size)
            # Before it may be refused: what lies outside the image took as long.
            effort += patch.mask.size + patch.effort
            check_inside(shape, patch)
            if kind == READ:
                value, kind, unclear = names.read(parts)
        except BadRegion as error:
            problems.append(f"Region {_name(shape, number)} was left out: {error}")
            counts["broken", ""] += 1
            lost |= holds_shape(shape)
            continue
        if kind[0] in ("prompt", "point"):
            patch.paint(canvas, _BENEATH, over=_BARE)
        else:
            patch.paint(canvas, _UNREAD if value is None else value)
            if drawn is not None:
                drawn(UNKNOWN if value is None else value, shape_of(shape), patch)
        if unclear:
            problems.append(f"Region {_name(shape, number)} is taken as unknown: {unclear}")
        counts[kind] += 1
    if effort > MOST_EFFORT:
        return _left_out(
            size,
            f"Its {len(result)} regions hold more than {MOST_EFFORT} pixels together: draw what "
            "has one label as one region.",
        )
    if len(problems) > LISTED:
        more = len(problems) - LISTED
        problems[LISTED:] = [f"And {more} more regions were left out or are taken as unknown."]
    unread = canvas == _UNREAD
    if lost:
        unread |= (canvas == _BARE) | (canvas == _BENEATH)
    canvas[canvas == _BARE] = UNKNOWN if lost else unlabelled
    canvas[canvas < 0] = UNKNOWN
    return Reading(canvas.astype(np.uint8), unread if unread.any() else None, problems, counts)


def _left_out(size: tuple[int, int], said: str) -> Reading:
    """Of an annotation that is left out as a whole."""
    unknown = np.full(size, UNKNOWN, dtype=np.uint8)
    return Reading(unknown, unknown == UNKNOWN, [said], Counter({("broken", ""): 1}))


def _regions(
    results: Sequence[object], config: LabelConfig
) -> Iterator[tuple[int, list[Mapping[str, Any]]]]:
    """Regions with an area on the image that is meant: each one's number and its results.

    Results of one id are one region: its shape, its labels, answers about it. A second shape of
    one type or with a label of its own, or a second label of one control, is another region that
    was given the same id.
    """
    found: list[tuple[int, list[Mapping[str, Any]]]] = []
    latest: dict[str, list[Mapping[str, Any]]] = {}
    for number, part in enumerate(results, start=1):
        if not isinstance(part, Mapping) or not _is_of(part, config):
            continue
        name = part.get("id")
        former = latest.get(name) if isinstance(name, str) else None
        if (
            former is not None
            and len(former) < MOST_PARTS
            and not any(_is_another(part, other) for other in former)
        ):
            former.append(part)
            continue
        parts = [part]
        found.append((number, parts))
        if isinstance(name, str):
            latest[name] = parts
    yield from found


def _is_another(part: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two results of one id are of two regions."""
    kind = part.get("type")
    if kind == "labels":
        return other.get("type") == kind and other.get("from_name") == part.get("from_name")
    drawn = kind in KINDS + SHAPES
    return drawn and (other.get("type") == kind or (_has_own_label(other) and _has_own_label(part)))


def _has_own_label(part: Mapping[str, Any]) -> bool:
    return part.get("type") != "labels" and part.get("type") in KINDS


def _is_of(part: Mapping[str, Any], config: LabelConfig) -> bool:
    """Whether this has an area, and no other image or text of the project is meant."""
    from_name = part.get("from_name")
    if isinstance(from_name, str) and from_name in config.reserved:  # a prompt, or the layer
        return False
    to_name = part.get("to_name")
    if to_name != config.image_name and isinstance(to_name, str) and to_name in config.known_names:
        return False
    return may_be_drawn(part)


def _kind_of(
    parts: Sequence[Mapping[str, Any]], config: LabelConfig
) -> tuple[tuple[str, str], Mapping[str, Any]]:
    """What a region is counted as, ``READ`` if it may be learnt from, and the result to draw."""
    typed = [part for part in parts if isinstance(part.get("type"), str)]
    shapes = [part for part in typed if part["type"] in KINDS + SHAPES and part["type"] != "labels"]
    shape = (shapes or list(parts))[0]
    if shape.get("to_name") != config.image_name:
        return ("image", str(shorten(shape.get("to_name"), 60)).strip(QUOTES)), shape
    # Of an image tag that showed a list, the first.
    if (item := shape.get("item_index")) not in (None, 0):
        return ("item", str(shorten(item, 60)).strip(QUOTES)), shape
    if shape_of(shape) == "keypoint":
        return ("point", ""), shape
    if any(part.get("from_name") in config.prompts for part in parts):
        return ("prompt", ""), shape
    if not any(part["type"] in KINDS + SHAPES for part in typed):
        return ("type", str(shorten(shape.get("type"), 60)).strip(QUOTES)), shape
    return READ, shape


def _name(region: Mapping[str, Any], number: int) -> str:
    kind = shorten(region.get("type"), 40).strip(QUOTES)
    return f"{shorten(region.get('id', number), 40).strip(QUOTES)} ({kind})"


@dataclass(frozen=True)
class _Names:
    """What the labels of regions paint."""

    config: LabelConfig
    classes: Sequence[str]
    unknown_label: str | None
    aliases: Mapping[str, str]

    def read(self, parts: Sequence[Mapping[str, Any]]) -> tuple[int | None, tuple[str, str], str]:
        """The class index that the region paints, None if it is not understood; what it is counted
        as; and why it is unclear, or ""."""
        labels = self._labels(parts)
        if len(labels) != 1:
            several = shorten(labels, 80) if labels else "none"
            return None, ("unclear", ""), f"it must have one label, it has {several}."
        (label,) = labels
        value = self._paints(label)
        counted = READ if self._is_known(label) else ("label", label[:LONGEST_NAME])
        return value, counted, ""

    def _labels(self, parts: Sequence[Mapping[str, Any]]) -> list[str]:
        """The region's labels by today's names; those of a Labels tag beside the shape's own count
        where they are classes too."""
        own = self._listed(part for part in parts if part.get("type") != "labels")
        further = self._listed(part for part in parts if part.get("type") == "labels")
        if own:
            further = [label for label in further if self._paints(label) is not None]
        return list(dict.fromkeys(own + further))

    def _listed(self, parts: Iterable[Mapping[str, Any]]) -> list[str]:
        found: list[str] = []
        for part in parts:
            value = part["value"] if isinstance(part.get("value"), Mapping) else {}
            for key, labels in value.items():
                if not isinstance(key, str) or not key.endswith("labels"):
                    continue
                if not isinstance(labels, list) or not all(isinstance(n, str) for n in labels):
                    raise BadRegion(f"Its labels must be a list of names, got {shorten(labels)}.")
                found += labels
        return [
            label if self._is_known(label) else self.aliases.get(label, label) for label in found
        ]

    def _is_known(self, label: str) -> bool:
        return self._paints(label) is not None or label in self.config.labels

    def _paints(self, label: str) -> int | None:
        if label == self.unknown_label:
            return UNKNOWN
        if is_background(label):
            return BACKGROUND
        return self.classes.index(label) if label in self.classes else None


# ---- several annotators ------------------------------------------------------------------------


def merge_masks(masks: Sequence[ClassMask], unread: Iterable[Mask] = ()) -> ClassMask:
    """What most annotators say of each pixel; 255 where they tie or all say 255.

    255 is no vote: one annotator who knows outweighs any who do not. But what one has labelled and
    nobody understands never becomes background, because others have left it unlabelled.

    Args:
        masks: at least one, each [H, W] uint8.
        unread: where regions were not understood, each [H, W] bool.

    Raises:
        ValueError: there is no mask, or their sizes differ.
    """
    shapes = {mask.shape for mask in masks}
    if len(shapes) != 1:
        raise ValueError(f"masks must be one or more of one size, got sizes {sorted(shapes)}")
    if len(masks) == 1:
        return masks[0].copy()
    merged = np.full(masks[0].shape, UNKNOWN, dtype=np.uint8)
    most = np.zeros(merged.shape, dtype=np.uint16)
    for index in sorted({index for mask in masks for index in np.unique(mask).tolist()}):
        if index == UNKNOWN:
            continue
        votes = np.zeros(merged.shape, dtype=np.uint16)
        for mask in masks:
            votes += mask == index
        merged[(votes == most) & (votes > 0)] = UNKNOWN
        merged[votes > most] = index
        np.maximum(most, votes, out=most)
    for pixels in unread:
        merged[pixels & (merged == BACKGROUND)] = UNKNOWN
    return merged
