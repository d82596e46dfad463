"""The labels that somebody should look at again, for a person at a terminal."""

from __future__ import annotations

from backend.insight.label_list import SHOWN, LabelList


def describe_labels(found: LabelList) -> str:
    """A line for each."""
    lines = [describe_judged(found)]
    lines += [
        f"  task {row.task}: {describe_row(row.labelled, row.predicted, row.pixels)}"
        for row in found.rows[:SHOWN]
    ]
    if len(found.rows) > SHOWN:
        lines.append(f"  and {len(found.rows) - SHOWN} more (--json lists all)")
    for pair in found.pairs:
        least = ", ".join(f"{task} ({dice:.2f})" for task, dice in pair["least"])
        lines.append(
            f"Users {pair['one']} and {pair['two']} overlap by {pair['dice']:.3f} (Dice) on "
            f"{pair['tasks']} tasks, least on {least}."
        )
    for why in sorted({row.why for row in found.unusable}):
        tasks = [str(row.task) for row in found.unusable if row.why == why]
        lines.append(f"Likely of no use, {why}: tasks {', '.join(tasks)}.")
    return "\n".join(lines)


def describe_judged(found: LabelList) -> str:
    """Whose judgement it is."""
    if found.version is None:
        return "There is no version yet, so no label has been judged."
    if not found.judged:
        return (
            f"Version {found.version} keeps no judgement of the labels: the next round makes one, "
            "if the committee has more than one member."
        )
    if not found.rows:
        return f"No label of {found.images} is contradicted by version {found.version}."
    return f"Of {found.images} labels, version {found.version} contradicts these most:"


def describe_row(labelled: str, predicted: str, pixels: float) -> str:
    """What stands against what."""
    return f"labelled {labelled}, predicted {predicted}; {pixels:.1%} of the image is contradicted"
