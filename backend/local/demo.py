"""The demo project: "Urine sediment", drawn images, a dozen of them annotated.

``python -m backend.local.demo [FOLDER]`` makes it, or goes on where it was interrupted; with
FOLDER it holds that folder's images instead. What is done is read from Label Studio each time: a
project is known by a mark in its description, a task by the name of its file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from backend.errors import BackendError, StudioRefused
from backend.label_studio.client import Project, Studio
from backend.settings import Settings, load_settings
from training.colours import CLASS_COLOURS
from training.files import write_atomically
from training.process_pool import process_pool

if TYPE_CHECKING:
    from backend.local.narrator import Narrator

TITLE = "Urine sediment"
FIELDS = 120
ANNOTATED = 12
SIZE_PX = 512
FIRST_SEED = 1000  # apart from the tests' and the benchmarks' fields
BATCH = 12
MIN_PARTICLE_PX = 1  # annotations are exact: nothing is too small


EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")

_MARK = "Committee's demo project, "

T = TypeVar("T")
R = TypeVar("R")


class NoImages(BackendError):
    """The folder holds nothing that could be shown."""


# ---- what DATA_DIR remembers ---------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """What became of one source of images.

    ``key`` is the project's ``<id>.<created>``; ``connected`` a checksum of the address that the
    project was connected with.
    """

    project: int | None = None
    key: str = ""
    done: bool = False
    connected: str = ""


def source_of(images: Path | None) -> str:
    """What a demo project is filled from: ``drawn``, or a folder's absolute path."""
    return "drawn" if images is None else str(images.resolve())


def recorded(data_dir: Path, source: str) -> Record:
    """What demo.json knows of ``source``."""
    return Record(**_read(data_dir).get(source, {}))


def record(data_dir: Path, source: str, **changes: Any) -> Record:
    """Change what demo.json knows of ``source``."""
    known = _read(data_dir)
    changed = replace(Record(**known.get(source, {})), **changes)
    path = data_dir / "demo.json"
    write_atomically(path, json.dumps({**known, source: asdict(changed)}, indent=2).encode())
    return changed


def _read(data_dir: Path) -> dict[str, dict[str, Any]]:
    path = data_dir / "demo.json"
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise BackendError(
            f"{path} is damaged ({error}); delete it, and the demo project is found again."
        ) from error
    return dict(found)


def still_there(settings: Settings, known: Record) -> bool:
    """Whether the project exists: who deletes the demo has it gone for good."""
    with Studio(*settings.label_studio()) as studio:
        return known.project is not None and _is_there(studio, known)


def _is_there(studio: Studio, known: Record) -> bool:
    try:
        return studio.project(known.project or 0).key == known.key
    except StudioRefused as error:
        if error.studio_status == 404:
            return False
        raise


# ---- making it -----------------------------------------------------------------------------


def label_config() -> str:
    """An image and the five labels of drawn sediment, as brushes."""
    from training.datasets.urine_sediment import CLASSES

    labels = "".join(
        f'    <Label value="{name}" background="{colour}"/>\n'
        for name, colour in zip(CLASSES[1:], CLASS_COLOURS, strict=False)
    )
    return (
        '<View>\n  <Image name="image" value="$image" zoom="true" zoomControl="true"/>\n'
        f'  <BrushLabels name="label" toName="image">\n{labels}  </BrushLabels>\n</View>\n'
    )


def make_demo(settings: Settings, images: Path | None, narrator: Narrator) -> int:
    """Make the demo project, or what is missing of it.

    Args:
        images: a folder of the user's images; None draws fields of view and annotates a dozen.

    Returns:
        Label Studio's project number.

    Raises:
        NoImages: the folder holds no image that can be read.
        StudioRefused, StudioUnreachable: as the client met them; the next call goes on.
    """
    source = source_of(images)
    with Studio(*settings.label_studio()) as studio:
        if images is None:
            project = _project(settings.data_dir, studio, source, TITLE)
            _fill_with_drawn(studio, project.id, narrator)
        else:
            files = image_files(images)
            title = f"{TITLE}: {images.resolve().name}"[:50]
            project = _project(settings.data_dir, studio, source, title)
            _fill_with_files(studio, project.id, images, files, narrator)
    record(settings.data_dir, source, done=True)
    return project.id


def _project(data_dir: Path, studio: Studio, source: str, title: str) -> Project:
    known = recorded(data_dir, source)
    if known.project is not None and _is_there(studio, known):
        return studio.project(known.project)
    # A run that ended between making it and noting it left a project with our mark.
    mark = _MARK + hashlib.sha256(source.encode()).hexdigest()[:12]
    marked = [p for p in studio.projects() if mark in (p.settings.get("description") or "")]
    if marked:
        project = marked[-1]
    else:
        project = studio.create_project(
            title=title,
            description=f"{mark}. Labels are changed under Settings, Labeling Interface.",
            label_config=label_config(),
            # Else each listing of tasks would wait for predictions of a page.
            evaluate_predictions_automatically=False,
        )
    record(data_dir, source, project=project.id, key=project.key)
    return project


def _names(studio: Studio, project_id: int) -> dict[str, tuple[int, int]]:
    """{name of the uploaded file: (task id, annotations)}, without Label Studio's own prefix."""
    found = {}
    for task in studio.tasks(project_id):
        name = str(task.data.get("image", "")).rsplit("/", 1)[-1]
        found[re.sub(r"^[0-9a-f]{8}-", "", name)] = (task.id, task.annotations + task.skipped)
    return found


# ---- drawn ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawn:
    """A field of view, ready for upload: PNG bytes, its mask and the names of its classes."""

    name: str
    png: bytes
    mask_png: bytes
    classes: frozenset[str]


def draw(number: int) -> Drawn:
    """Field ``number`` of the demo; the two laboratories take turns."""
    import cv2

    from training.datasets.urine_sediment import draw_field
    from training.images import encode_png

    laboratory = "AB"[number % 2]
    field = draw_field(FIRST_SEED + number, laboratory, (SIZE_PX, SIZE_PX))
    return Drawn(
        name=f"field-{number:03d}-laboratory-{laboratory.lower()}.png",
        png=encode_png(field.image),
        mask_png=cv2.imencode(".png", field.mask)[1].tobytes(),
        classes=frozenset(name for name, count in field.counts.items() if count),
    )


def choose(drawn: Sequence[Drawn], count: int) -> list[Drawn]:
    """``count`` fields that together hold every class, rare ones as often as can be.

    Always the field whose classes were chosen least often so far; then in the order of drawing.
    """
    seen: dict[str, int] = {}
    left = list(drawn)
    chosen: list[Drawn] = []
    while left and len(chosen) < count:
        best = max(left, key=lambda field: sum(2.0 ** -seen.get(c, 0) for c in field.classes))
        left.remove(best)
        chosen.append(best)
        for name in best.classes:
            seen[name] = seen.get(name, 0) + 1
    return chosen


def _fill_with_drawn(studio: Studio, project_id: int, narrator: Narrator) -> None:
    drawn: list[Drawn] = []
    present = _names(studio, project_id)
    with narrator.step("The demo's images") as report:
        for batch in _batches(_in_processes(draw, range(FIELDS)), BATCH):
            drawn += batch
            report("Drawing the demo's images", len(drawn), FIELDS)
            missing = [(one.name, one.png) for one in batch if one.name not in present]
            if missing:
                studio.upload(project_id, missing)
    with narrator.step("The demo's annotations") as report:
        present = _names(studio, project_id)
        chosen = choose(drawn, ANNOTATED)
        for done, field in enumerate(chosen):
            report("Annotating a dozen of them", done, len(chosen))
            task_id, annotations = present[field.name]
            if annotations == 0:
                studio.annotate(task_id, regions_of(field))


def regions_of(field: Drawn) -> list[dict[str, object]]:
    """The exact mask as an annotator would have painted it: no score, no prediction's origin."""
    import cv2
    import numpy as np

    from backend.label_studio.label_config import parse_label_config
    from backend.label_studio.regions import to_regions
    from training.datasets.urine_sediment import CLASSES

    decoded = cv2.imdecode(np.frombuffer(field.mask_png, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert decoded is not None
    mask = decoded.astype(np.uint8)
    certain = np.ones(mask.shape, np.float32)
    config = parse_label_config(label_config())
    regions = to_regions(
        mask, certain, config, CLASSES, per="class", min_particle_px=MIN_PARTICLE_PX
    )
    return [
        {**{k: v for k, v in region.items() if k != "score"}, "origin": "manual"}
        for region in regions
    ]


# ---- the user's own ------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """A file as the browser will get it, or the reason why not."""

    name: str
    data: bytes
    problem: str


def image_files(folder: Path) -> list[Path]:
    """The image files of ``folder`` and its subfolders, in order of their paths.

    Raises:
        NoImages: there are none.
    """
    try:
        found = sorted(
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in EXTENSIONS and path.is_file() and path.name[0] != "."
        )
    except OSError as error:
        raise NoImages(
            f"IMAGES must be a folder that can be read, got '{folder}' ({error})."
        ) from (error)
    if not found:
        raise NoImages(
            f"IMAGES must be a folder of images ({', '.join(EXTENSIONS)}), "
            f"and '{folder}' holds none."
        )
    return found


def show(path: Path, name: str) -> Shown:
    """The file as every browser shows it.

    PNG, JPEG and WebP of 8 bits stay as they are. TIFF, and whatever is deeper than 8 bits, becomes
    a PNG of 8 bits; deeper values are stretched from the 0.1th and 99.9th percentile of all the
    image's values to 0-255 (``training.images.STRETCH_PERCENTILES``).
    """
    from training.images import UnreadableImage, decode_image, encode_png

    try:
        data = path.read_bytes()
        image = decode_image(data)
    except (OSError, UnreadableImage) as error:
        return Shown(name, b"", f"{path}: {error}")
    kind = _browser_kind(data)
    if kind is not None:
        return Shown(f"{name}.{kind}", data, "")
    return Shown(f"{name}.png", encode_png(image), "")


def _browser_kind(data: bytes) -> str | None:
    """The extension of a file that browsers show as it is; None of one that must be converted."""
    if data.startswith(b"\xff\xd8"):
        return "jpg"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    if data.startswith(b"\x89PNG") and data[24] <= 8:  # bits per sample, in the header chunk
        return "png"
    return None


def _fill_with_files(
    studio: Studio, project_id: int, folder: Path, files: Sequence[Path], narrator: Narrator
) -> None:
    present = {name.rsplit(".", 1)[0] for name in _names(studio, project_id)}
    wanted = [(path, _safe_name(path.relative_to(folder))) for path in files]
    missing = [(path, name) for path, name in wanted if name not in present]
    problems: list[str] = []
    done = len(wanted) - len(missing)
    with narrator.step("Your images") as report:
        for batch in _batches(_in_processes(_show, missing), BATCH):
            ready = [(one.name, one.data) for one in batch if not one.problem]
            problems += [one.problem for one in batch if one.problem]
            if ready:
                studio.upload(project_id, ready)
            done += len(batch)
            report("Uploading your images", done, len(wanted))
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        narrator.say(f"{len(problems)} of {len(wanted)} images were left out:\n{listed}")
    if len(problems) == len(wanted):
        raise NoImages(f"None of the {len(wanted)} images in '{folder}' could be read.")
    narrator.say(
        "The project has the five labels of urine sediment; change them in Label Studio under "
        "Settings, Labeling Interface, before you label."
    )


def _show(item: tuple[Path, str]) -> Shown:
    return show(*item)


def _safe_name(path: Path) -> str:
    """A file name without extension: the path's checksum makes it one of its kind."""
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", str(path.with_suffix("")))
    return f"{stem[-60:].strip('-') or 'image'}-{digest}"


# ---- in parallel ---------------------------------------------------------------------------


def _in_processes(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Like map, on every CPU; results come in order, and few wait for whoever takes them."""
    workers = max(1, min(8, os.cpu_count() or 1))
    with process_pool(workers, _use_one_thread) as pool:
        left = iter(items)
        running = [pool.submit(function, item) for item in islice(left, 2 * BATCH)]
        try:
            while running:
                yield running.pop(0).result()
                running += [pool.submit(function, item) for item in islice(left, 1)]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _use_one_thread() -> None:
    # One process per CPU already: OpenCV's own threads would only get in each other's way.
    import cv2

    cv2.setNumThreads(1)


def _batches(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while batch := list(islice(items, size)):
        yield batch


def main() -> int:
    """Make the demo project of this environment; returns the exit status."""
    from rich.console import Console

    from backend.local.narrator import Narrator

    narrator = Narrator(Console(highlight=False, soft_wrap=True))
    images = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    try:
        make_demo(load_settings(), images, narrator)
    except BackendError as error:
        narrator.close()
        narrator.say(str(error))
        return 1
    except KeyboardInterrupt:
        narrator.close()
        return 130
    return 0


if __name__ == "__main__":
    # SIGTERM comes from the supervisor; it ends the pool's processes as Ctrl-C does.
    import signal

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
