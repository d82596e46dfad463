"""An ablation's results as tables: a variant's figures, and how they differ from the base's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from training.experiments.ablation import BASE, SUPPORTED_PARTICLES
from training.experiments.statistics import paired_t

Results = Sequence[Mapping[str, Any]]
"""Lines as ``ablation.measure`` gives them; those of 0.2.0 have no particles."""


def table(results: Results) -> list[list[str]]:
    """Rows of text, the head first.

    A row has a variant's figures over its draws, and the paired differences of its IoU from the
    recipe as it is, with their 95 % interval by Student's t over the draws that both have.
    """
    supported = f"of classes with {SUPPORTED_PARTICLES} particles"
    head = ["images", "variant", "draws", "lowest to highest", "mean IoU", "difference"]
    head += [supported, "difference", "ECE", "entropy finds errors", "BALD finds errors"]
    elsewhere = any("other" in result for result in results)
    if elsewhere:
        head += ["IoU elsewhere", "difference", f"elsewhere {supported}", "difference"]
        head += ["ECE elsewhere", "entropy tells elsewhere"]
    rows = [head]
    for images, variant, group, base in _by_variant(results):
        found = _by_draw(group, "test", "mean_iou").values()
        row = [str(images), variant, str(len(group)), f"{min(found):.3f} to {max(found):.3f}"]
        row += _mean_and_difference(group, base, "test", "mean_iou")
        row += _mean_and_difference(group, base, "test", "mean_iou_supported")
        row.append(_mean(group, "test", "ece"))
        row.append(_mean(group, "test", "finds_errors", "predictive_entropy"))
        row.append(_mean(group, "test", "finds_errors", "mutual_information"))
        if elsewhere:
            row += _mean_and_difference(group, base, "other", "mean_iou")
            row += _mean_and_difference(group, base, "other", "mean_iou_supported")
            row.append(_mean(group, "other", "ece"))
            row.append(_mean(group, "foreign", "predictive_entropy/top_quantile_mean"))
        rows.append(row)
    return rows


def class_table(results: Results) -> list[list[str]]:
    """Rows of text, the head first: a variant's figures as in ``table``, of each class but
    background, beside the particles of the class in the test. None if all lines are of 0.2.0.
    """
    head = ["images", "class", "particles in the test", "variant", "draws", "IoU", "difference"]
    head += ["recall of particles", "difference", "precision of particles"]
    rows: dict[tuple[int, int, int], list[str]] = {}
    variants = _by_variant([result for result in results if "classes" in result])
    for number, (images, variant, group, base) in enumerate(variants):
        classes, counts = group[0]["classes"], group[0]["test"]["particles"]
        for c in range(1, len(classes)):
            row = [str(images), classes[c], str(counts[c]), variant, str(len(group))]
            row += _mean_and_difference(group, base, "test", "iou", c)
            row += _mean_and_difference(group, base, "test", "particle_recall", c)
            row.append(_mean(group, "test", "particle_precision", c))
            rows[images, c, number] = row
    return [head, *(rows[place] for place in sorted(rows))] if rows else []


def _by_variant(results: Results) -> list[tuple[int, str, Results, Results]]:
    """Images, variant, its results and the base's (none for the base itself), base first."""
    groups: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    for result in results:
        groups.setdefault((result["images"], result["variant"]), []).append(result)
    ordered = sorted(groups, key=lambda each: (each[0], each[1] != BASE, each[1]))
    return [
        (images, name, groups[images, name], [] if name == BASE else groups.get((images, BASE), []))
        for images, name in ordered
    ]


def _by_draw(results: Results, *path: str | int) -> dict[int, float]:
    """The figure at this path by draw, of the draws that have it."""
    found = {}
    for result in results:
        value: Any = result
        for step in path:
            if isinstance(value, Mapping):
                value = value.get(step)
            elif value is not None:
                value = value[step]
        if value is not None:
            found[result["draw"]] = value
    return found


def _mean(results: Results, *path: str | int) -> str:
    """Mean over the draws of the figure at this path, as text; empty if none has it."""
    found = _by_draw(results, *path)
    return f"{np.mean(list(found.values())):.3f}" if found else ""


def _mean_and_difference(results: Results, base: Results, *path: str | int) -> tuple[str, str]:
    """``_mean``, and the paired difference from the base with its interval, as text."""
    ours, theirs = _by_draw(results, *path), _by_draw(base, *path)
    # NaN, such as the mean IoU of a test that shows no class, has no difference.
    draws = [d for d in sorted(ours.keys() & theirs.keys()) if np.isfinite(ours[d] - theirs[d])]
    if not draws:
        return _mean(results, *path), ""
    found = paired_t([theirs[draw] for draw in draws], [ours[draw] for draw in draws])
    interval = "" if found.low is None else f" [{found.low:+.3f}, {found.high:+.3f}]"
    return _mean(results, *path), f"{found.mean:+.3f}{interval}"
