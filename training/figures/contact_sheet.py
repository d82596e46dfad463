"""Pictures to check by eye: a version's best, median and worst task; masks over their images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from acquisition.masks import UNKNOWN
from training.committee.committee import Committee
from training.examples import Example
from training.figures.fonts import Fonts
from training.figures.overlay import as_rgb, colour_of, overlay
from training.images import encode_png
from training.pixels import Image8

PANEL_PX = 320

GAP_PX = 8

TEXT_PX = 15

LINE_PX = 22

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

COLUMNS = ("image", "truth", "predicted out of fold", "uncertainty: entropy, nats")


@dataclass(frozen=True)
class OutOfFold:
    """One task as predicted by a member that never trained on it.

    Attributes:
        example: image and truth at the network's resolution.
        predicted: [h, w] uint8 class indices.
        entropy: [h, w] nats, of the member's calibrated probabilities.
        caption: names the task and its quality.
    """

    example: Example
    predicted: NDArray[np.uint8]
    entropy: NDArray[np.float32]
    caption: str


def worst_median_best(scores: Mapping[str, float]) -> dict[str, str]:
    """ "worst", "median" and "best" to a key each; of fewer than three none is named twice."""
    ranked = sorted(scores, key=lambda key: (scores[key], key))
    if len(ranked) == 1:
        return {"only": ranked[0]}
    ends = {"worst": ranked[0], "best": ranked[-1]}
    if len(ranked) == 2:
        return ends
    return {"worst": ends["worst"], "median": ranked[len(ranked) // 2], "best": ends["best"]}


def version_sheet(
    committee: Committee, examples: Sequence[Example], scores: Mapping[str, float]
) -> bytes:
    """A version's worst, median and best task, each predicted out of fold: a PNG.

    Args:
        committee: the version.
        examples: those that it was assessed on.
        scores: key to foreground Dice.
    """
    by_key = {example.key: example for example in examples}
    tasks = []
    for name, key in worst_median_best(scores).items():
        probs, predicted = committee.out_of_fold(by_key[key])
        entropy = torch.special.entr(probs).sum(dim=0).numpy()
        caption = f"{name}: {key}, foreground Dice {scores[key]:.3f}"
        tasks.append(OutOfFold(by_key[key], predicted, entropy, caption))
    title = f"{len(examples)} labelled images, each seen by the member that never trained on it"
    if committee.config.members == 1:
        title = f"{len(examples)} labelled images; the only member trained on all of them"
    return contact_sheet(tasks, committee.config.classes, title)


def contact_sheet(tasks: Sequence[OutOfFold], classes: Sequence[str], title: str) -> bytes:
    """Draw the tasks one below the other: image, truth, prediction and entropy.

    Args:
        tasks: top first.
        classes: names by index, background first.
        title: stands on top.

    Returns:
        A PNG.
    """
    rows = [(each.caption, _task_row(each, len(classes))) for each in tasks]
    return _sheet(rows, COLUMNS, classes, title, entropy=True)


def mask_sheet(
    rows: Sequence[tuple[str, Image8]],
    columns: Sequence[str],
    classes: Sequence[str],
    title: str,
) -> bytes:
    """Draw images with masks over them, one below the other.

    Args:
        rows: a caption each, and what ``mask_row`` made of its image.
        columns: names for the image and each of its masks.
        classes: names by index, background first.

    Returns:
        A PNG.
    """
    return _sheet(rows, columns, classes, title, entropy=False)


def mask_row(image: Image8, *masks: Image8) -> Image8:
    """An image [H, W, channels], and again with each mask [H, W] over it, side by side."""
    picture = as_rgb(image)
    return _row([picture, *(overlay(picture, mask) for mask in masks)])


def _sheet(
    rows: Sequence[tuple[str, Image8]],
    columns: Sequence[str],
    classes: Sequence[str],
    title: str,
    *,
    entropy: bool,
) -> bytes:
    text = _Text([title, *classes, *(caption for caption, _ in rows)])
    width = len(columns) * (PANEL_PX + GAP_PX) + GAP_PX
    legend = _legend(classes, width, text, entropy=entropy)
    heads = LINE_PX * 2 + GAP_PX
    height = heads + sum(len(row) + LINE_PX + GAP_PX for _, row in rows) + legend.height
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    text.draw(pen, (GAP_PX, 4), title)
    for column, name in enumerate(columns):
        text.draw(pen, (GAP_PX + column * (PANEL_PX + GAP_PX), LINE_PX + 4), name)
    top = heads
    for caption, row in rows:
        text.draw(pen, (GAP_PX, top), caption)
        sheet.paste(Image.fromarray(row), (GAP_PX, top + LINE_PX))
        top += LINE_PX + len(row) + GAP_PX
    sheet.paste(legend, (0, top))
    return encode_png(np.asarray(sheet))


def _task_row(task: OutOfFold, classes: int) -> Image8:
    picture = as_rgb(task.example.image)
    most = math.log(classes)  # if all classes are equally likely
    # A member whose weights are not finite knows nothing.
    share = np.clip(np.nan_to_num(task.entropy, nan=most) / most, 0, 1)
    heat = cv2.applyColorMap((share * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    truth, predicted = (overlay(picture, mask) for mask in (task.example.mask, task.predicted))
    return _row([picture, truth, predicted, np.asarray(heat[..., ::-1], np.uint8)])


def _row(panels: Sequence[Image8]) -> Image8:
    """Pictures [h, w, 3] of one size side by side, at the sheet's own size."""
    h, w = panels[0].shape[:2]
    scale = PANEL_PX / max(h, w)
    size = (max(1, round(w * scale)), max(1, round(h * scale)))
    row = np.full((size[1], len(panels) * (PANEL_PX + GAP_PX) - GAP_PX, 3), 255, np.uint8)
    for column, panel in enumerate(panels):
        shown = cv2.resize(
            np.ascontiguousarray(panel),
            size,
            interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST,
        )
        left = column * (PANEL_PX + GAP_PX)
        row[:, left : left + size[0]] = shown
    return row


class _Text:
    """Draws texts in fonts that have their letters.

    Args:
        texts: all that will be drawn and is not plain ASCII.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        # Pillow's own font has little more than ASCII.
        self.fonts = None if all(map(str.isascii, texts)) else Fonts.of(texts)
        self._plain = ImageFont.load_default(TEXT_PX)
        self._opened: dict[Path, _Font] = {}

    def names(self, classes: Sequence[str]) -> Sequence[str]:
        """The classes as they can be drawn, each on one line."""
        names = classes if self.fonts is None else self.fonts.class_names(classes)
        return [" ".join(name.split()) for name in names]

    def note(self, classes: Sequence[str]) -> str:
        """Which letters cannot be drawn, and what to do; empty if all can."""
        return "" if self.fonts is None else self.fonts.note(classes)

    def width(self, text: str) -> float:
        return sum(font.getlength(part) for part, font in self._parts(text))

    def draw(self, pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str) -> None:
        """From the upper left corner on, on one line whatever the fonts."""
        left, top = at
        if self.fonts is None:
            pen.text(at, text, "black", self._plain)
            return
        for part, font in self._parts(text):
            pen.text((left, top + TEXT_PX), part, "black", font, anchor="ls")
            left += font.getlength(part)

    def _parts(self, text: str) -> Iterator[tuple[str, _Font]]:
        if self.fonts is None:
            yield text, self._plain
            return
        for part, file in self.fonts.runs(self.fonts.readable(text)):
            if file not in self._opened:
                self._opened[file] = ImageFont.truetype(file, TEXT_PX)
            yield part, self._opened[file]


def _legend(classes: Sequence[str], width: int, text: _Text, *, entropy: bool) -> Image.Image:
    """Class names in their colours, and the scale of the entropy where it is shown."""
    names = text.names(classes)
    entries = [(name, colour_of(index)) for index, name in enumerate(names) if index]
    entries.append(("unknown", colour_of(UNKNOWN)))
    places, left, line = [], GAP_PX, 0
    for name, colour in entries:
        taken = 24 + round(text.width(name)) + 2 * GAP_PX
        if left + taken > width and left > GAP_PX:
            left, line = GAP_PX, line + 1
        places.append((left, line, name, colour))
        left += taken
    note = text.note(classes)
    lines = line + 1 + entropy + bool(note)
    legend = Image.new("RGB", (width, lines * LINE_PX + GAP_PX), "white")
    pen = ImageDraw.Draw(legend)
    for left, line, name, colour in places:
        top = line * LINE_PX
        pen.rectangle((left, top + 3, left + 16, top + 17), fill=colour)
        text.draw(pen, (left + 22, top), name)
    top = (places[-1][1] + 1) * LINE_PX
    text.draw(pen, (GAP_PX, top + entropy * LINE_PX), note)
    if not entropy:
        return legend
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None], 14, axis=0)
    bar = Image.fromarray(cv2.applyColorMap(ramp, cv2.COLORMAP_INFERNO)[..., ::-1].copy())
    text.draw(pen, (GAP_PX, top), "entropy  0")
    beside = GAP_PX + round(text.width("entropy  0")) + 8
    legend.paste(bar, (beside, top + 3))
    most = f"{math.log(len(classes)):.2f} = log {len(classes)}"
    text.draw(pen, (beside + 264, top), most)
    return legend
