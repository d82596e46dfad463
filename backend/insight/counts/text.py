"""The counts for a person at a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from backend.insight.counts.project import ALL, MOST_UNKNOWN, CountRow, ProjectCounts
from training.quality.audit import Interval

SHOWN_UNREADABLE = 5

MOST_ROWS = 60
"""Of a table; further groups are in counts.csv."""

HEAD = ("class", "committee", "corrected", "95 % between", "audits alone", "95 % between")


def describe_counts(found: ProjectCounts) -> str:
    """Two tables, particles an image and share of the area, and what a reader must know."""
    lines = [f"Project {found.project}, {len(found.images)} images by version {found.version}", ""]
    for measure, title in (
        ("count", "Particles per image; times the number of images they are the total."),
        ("area", "Share of the area, in per cent."),
    ):
        lines += [title, *_table([row for row in found.rows if row.measure == measure]), ""]
    return "\n".join([*lines, *_notes(found), *_reasons(found.rows)])


def _table(rows: Sequence[CountRow]) -> list[str]:
    shown = rows[:MOST_ROWS]
    grouped = len({row.group for row in rows}) > 1
    head = ("group", "images", *HEAD) if grouped else HEAD
    cells = [head, *(_cells(row, grouped=grouped) for row in shown)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
    words = {0, 2} if grouped else {0}  # the columns that hold no numbers
    lines = [
        "  ".join(
            cell.ljust(width) if i in words else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    if len(rows) > len(shown):
        lines.append(f"... and {len(rows) - len(shown)} more rows in counts.csv")
    return ["  " + line for line in lines]


def _cells(row: CountRow, *, grouped: bool) -> tuple[str, ...]:
    pool, scale = row.pool, 100.0 if row.measure == "area" else 1.0
    cells = (
        row.class_name,
        f"{scale * pool.plain:.3f}",
        *_interval(pool.corrected, scale),
        *_interval(pool.alone, scale),
    )
    return (row.group, str(pool.images), *cells) if grouped else cells


def _interval(interval: Interval | None, scale: float) -> tuple[str, str]:
    if interval is None or interval.low is None or interval.high is None:
        return "-", "-"
    between = f"{scale * interval.low:.3f} and {scale * interval.high:.3f}"
    return f"{scale * interval.value:.3f}", between


def _notes(found: ProjectCounts) -> list[str]:
    """Sentences on what the numbers rest on."""
    audits, lines = found.audits, []
    lines.append(
        f"{audits.counted} audits are counted, {audits.waiting} are not labelled yet and "
        f"{audits.skipped} were skipped."
    )
    if audits.skipped:
        lines.append("Where the skipped ones are unlike the others, the correction is off.")
    if audits.prepared:
        lines.append(
            f"On {audits.prepared} of the counted audits a person corrected a pre-annotation, "
            "which draws a count towards the committee's."
        )
    if audits.shared:
        lines.append(f"{audits.shared} audits have several annotations: the mean of their counts.")
    if audits.unknown:
        lines.append(
            f"{audits.unknown} labelled audits are left out: on more than {100 * MOST_UNKNOWN:.0f} "
            "% of their pixels nothing is known."
        )
    if audits.learnt:
        lines.append(
            f"{audits.learnt} audits taught this version before audit_fraction was raised: they "
            "are no audits here."
        )
    if found.learnt:
        by = (
            "enter by the member that never trained on them"
            if found.out_of_fold
            else "are predicted by the only member, which trained on them: with one member they "
            "look better than others, and the correction too small"
        )
        lines.append(f"{found.learnt} images that taught the version {by}.")
    if found.elsewhere:
        lines.append(
            f"{found.elsewhere} images are among those that the version from elsewhere learnt "
            "from. They are left out, audits too: all of this is said of the pool without them."
        )
    if found.unreadable:
        lines.append(
            f"{len(found.unreadable)} images could not be read, so all of this is said of the "
            "pool without them; a second run tries them again:"
        )
        lines += [f"  task {task}: {why}" for task, why in found.unreadable[:SHOWN_UNREADABLE]]
        if len(found.unreadable) > SHOWN_UNREADABLE:
            lines.append(f"  and {len(found.unreadable) - SHOWN_UNREADABLE} more (images.csv)")
    return lines


def _reasons(rows: Sequence[CountRow]) -> list[str]:
    """Why some rows have no interval; of a class's area only where its count has one."""
    without = {(row.measure, row.class_name, row.group): row for row in rows if row.pool.reason}
    told = [
        row
        for (measure, name, group), row in without.items()
        if measure == "count" or ("count", name, group) not in without
    ]
    if not told:
        return []
    if len({row.pool.reason for row in told}) == 1 and len(told) > 1:
        return ["", f"No interval: {told[0].pool.reason}."]
    lines = ["", "No interval:", *(_reason(row) for row in told[:MOST_ROWS])]
    if len(told) > MOST_ROWS:
        lines.append(f"  and {len(told) - MOST_ROWS} more (counts.csv)")
    return lines


def _reason(row: CountRow) -> str:
    pool, held = row.pool, ""
    if pool.counted is not None and pool.predicted is not None and row.measure == "count":
        people, committee = (_short(mean * pool.audits) for mean in (pool.counted, pool.predicted))
        held = f"; on the audits people counted {people}, the committee {committee}"
    of = "" if row.measure == "count" else ", area"
    group = "" if row.group == ALL else f", {row.group}"
    return f"  {row.class_name}{of}{group}: {pool.reason}{held}."


def _short(count: float) -> str:
    return f"{count:.0f}" if count == round(count) else f"{count:.1f}"
