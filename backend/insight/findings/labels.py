"""Checks that the labels and images can be learnt from."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from urllib.parse import urlsplit

from backend.errors import BadLabelConfig, BadOptions, BadRequest, ImageRefused
from backend.insight.findings.case import ProjectCase
from backend.insight.findings.finding import Finding
from backend.insight.status import unread_regions
from backend.label_studio.bulk import Task
from backend.label_studio.label_config import LabelConfig, unread_controls
from backend.predict import image_url
from backend.workplace import Workplace

CHECKED_TASKS = 500
"""Tasks whose data are read: one page of Label Studio's."""


CHECKED_IMAGES = 6
"""Images that are fetched and decoded: each kind of address once, the rest by chance."""


def check_configuration(case: ProjectCase) -> Iterator[Finding]:
    """The options and the label config can be read."""
    if isinstance(case.options, BadOptions):
        yield case.error(
            "bad-options",
            str(case.options),
            "Correct the extra parameters in Settings > Model, or by "
            f"`python -m backend connect --project {case.id} --options '{{...}}'`.",
        )
    elif isinstance(case.config, BadLabelConfig):
        fix = "Correct it in Settings > Labeling Interface."
        if "option image" in str(case.config):
            fix = (
                "Name the Image tag by the option: `python -m backend connect --project "
                f'{case.id} --options \'{{"image": "..."}}\'`.'
            )
        yield case.error("label-config", str(case.config), fix)


def check_unread(case: ProjectCase) -> Iterator[Finding]:
    """Regions that the last training did not understand, and controls that it never reads."""
    if case.known is not None:
        for sentence in unread_regions(case.work.ledger, case.known.id):
            what, _, fix = sentence.partition(": ")
            yield case.warning("labels-not-understood", f"{what}.", fix[:1].upper() + fix[1:])
    if isinstance(case.config, LabelConfig):
        for sentence in unread_controls(case.project.label_config, case.config):
            yield case.ok("control-not-read", sentence)


def check_images(case: ProjectCase) -> Iterator[Finding]:
    """Fetch and decode a few images, each kind of address at least once."""
    if isinstance(case.config, BadLabelConfig) or isinstance(case.options, BadOptions):
        return
    if case.project.settings["evaluate_predictions_automatically"]:
        return  # listing the tasks would have them all predicted first; --fix turns that off
    tasks = list(islice(case.studio.tasks(case.id), CHECKED_TASKS))
    urls, without = _urls(tasks, case.config)
    if without:
        yield case.warning(
            "task-without-image",
            f"{len(without)} of {len(tasks)} checked tasks hold no image under "
            f"'{case.config.data_key}', task {without[0]} for one.",
            "Import them again with that key, or delete them: no round can use them.",
        )
    refused: dict[tuple[str, str], list[str]] = {}
    chosen = _sample(urls)
    for url in chosen:
        problem = _image_problem(case.work, url, case.options.channel_numbers)
        if problem is not None:
            refused.setdefault((problem[0], _place(url)), []).append(problem[1])
    for (code, _), messages in refused.items():
        what = f"{len(messages)} of {len(chosen)} images tried cannot be used. {messages[0]}"
        yield case.error(code, what, _IMAGE_FIXES[code])
    if chosen and not refused:
        yield case.ok("images", f"{len(chosen)} images were fetched and decoded.")


_IMAGE_FIXES: Mapping[str, str] = {
    "image-host": "Add the host to ALLOWED_IMAGE_HOSTS if you trust it, and start us again.",
    "image-refused": "Open the task in Label Studio: is its image shown? Check that our user may "
    "see it, and that its storage is connected.",
    "image-unreadable": "Replace the file: PNG, JPEG, TIFF, WebP, BMP, GIF and JPEG 2000 are read "
    "(docs/IMAGES.md). If it lacks a channel, correct the option channels.",
}


def _urls(tasks: Sequence[Task], config: LabelConfig) -> tuple[list[str], list[int]]:
    """The tasks' image addresses, and the ids of those that have none."""
    urls: list[str] = []
    without: list[int] = []
    for task in tasks:
        try:
            urls.append(image_url(task.data, config))
        except BadRequest:
            without.append(task.id)
    return urls, without


def _sample(urls: Sequence[str]) -> list[str]:
    """The first of each place, then others by seeded chance: CHECKED_IMAGES at most."""
    firsts = list({_place(url): url for url in reversed(urls)}.values())[:CHECKED_IMAGES]
    rest = [url for url in urls if url not in firsts]
    more = min(len(rest), CHECKED_IMAGES - len(firsts))
    return firsts + random.Random(0).sample(rest, more)


def _place(url: str) -> str:
    """Host and first two folders: what decides how an image is fetched."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "no address"
    return f"{parts.scheme}://{parts.netloc}/" + "/".join(parts.path.split("/")[1:-1][:2])


def _image_problem(
    work: Workplace, url: str, channels: Sequence[int] | None
) -> tuple[str, str] | None:
    from training.decoder import read_apart
    from training.pixels import UnreadableImage

    try:
        read_apart(work.images.fetch(url), channels)
    except ImageRefused as error:
        host = "ALLOWED_IMAGE_HOSTS" in str(error)
        return "image-host" if host else "image-refused", str(error)
    except UnreadableImage as error:
        return "image-unreadable", str(error)
    return None
