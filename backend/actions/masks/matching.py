"""Which task each mask belongs to, by the names of files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from backend.actions.masks.given import Given
from backend.label_studio.image_paths import same_name, without_ending

MASK_ENDINGS = ("_cp_masks", "_masks", "_mask", "_labels", "_label", "_instances", "_seg")
"""What tools set behind an image's name to name its mask, the longest first."""

LISTED = 3
"""Tasks or masks that a sentence lists."""


def match(
    masks: Iterable[Given], images: Iterable[tuple[int, str]]
) -> tuple[dict[int, Given], list[tuple[Given, str]]]:
    """The mask of each task, and the masks that have none, each with the reason.

    A name decides. Where several tasks have it, the folders do, as far as they are alike from the
    last one on.

    Args:
        images: each task's number, and the path of its image.
    """
    by_stem: dict[str, list[tuple[int, tuple[str, ...]]]] = {}
    for task_id, path in images:
        if path:
            *folders, stem = _parts(without_ending(path))
            by_stem.setdefault(stem, []).append((task_id, tuple(folders)))
    found: dict[int, list[Given]] = {}
    left: list[tuple[Given, str]] = []
    for mask in masks:
        *folders, stem = _parts(mask.name)
        tasks = _closest(folders, _of_stem(stem, by_stem))
        if len(tasks) == 1:
            found.setdefault(tasks[0], []).append(mask)
        elif not tasks:
            left.append((mask, f"no task's image is called {stem}."))
        else:
            left.append(
                (
                    mask,
                    f"{len(tasks)} tasks have images called {stem} ({_some(tasks)}): put the mask "
                    "into a folder that is called as its image's.",
                )
            )
    for task_id, several in list(found.items()):
        if len(several) > 1:
            sources = _some([mask.source for mask in several])
            del found[task_id]
            left += [(mask, f"several masks are task {task_id}'s: {sources}.") for mask in several]
    return {task_id: several[0] for task_id, several in sorted(found.items())}, left


def _parts(path: str) -> list[str]:
    """Folders and name, as Label Studio keeps names."""
    return [same_name(part) for part in path.split("/")]


def _of_stem(
    stem: str, by_stem: dict[str, list[tuple[int, tuple[str, ...]]]]
) -> list[tuple[int, tuple[str, ...]]]:
    if stem in by_stem:
        return by_stem[stem]
    for ending in MASK_ENDINGS:
        if stem.endswith(ending) and (shorter := stem.removesuffix(ending)) in by_stem:
            return by_stem[shorter]
    return []


def _closest(folders: Sequence[str], tasks: Sequence[tuple[int, tuple[str, ...]]]) -> list[int]:
    """The tasks whose folders agree with these in most places from the last one on."""
    agreeing = [(_agreeing(folders, theirs), task_id) for task_id, theirs in tasks]
    most = max((count for count, _ in agreeing), default=0)
    return [task_id for count, task_id in agreeing if count == most]


def _agreeing(ours: Sequence[str], theirs: Sequence[str]) -> int:
    count = 0
    for a, b in zip(reversed(ours), reversed(theirs), strict=False):
        if a != b:
            break
        count += 1
    return count


def _some(values: Sequence[object]) -> str:
    more = f" and {len(values) - LISTED} more" if len(values) > LISTED else ""
    return ", ".join(map(str, values[:LISTED])) + more
