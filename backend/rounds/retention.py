"""How much of the past is kept; the rest goes when a round has ended, and once an hour.

Annotations are Label Studio's and never touched. What a person may still want to go back to, or to
be told why, stays; the rest only grows.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from backend.errors import BadOptions
from backend.ledger import NO_VERSION, Ledger, Project
from backend.options import KEEP_VERSIONS, parse_options
from backend.rounds.elsewhere import start_version

if TYPE_CHECKING:
    from backend.workplace import Workplace

KEEP_EARLIER = 3
"""Promoted versions before the one that ranks or serves, which `rollback` may want."""

KEEP_MANIFESTS = 3
"""Newest manifests, whose examples the next rounds need not make again."""

KEEP_RANKINGS = 5
"""Newest served publications whose ranking tells why a task was asked for."""

KEEP_UNJUDGED = 50
"""At most so many of those that somebody may have labelled by since the last training round began:
the next one still asks why."""

KEEP_ROUNDS = 20
"""Newest rounds that keep their jobs and their list of problems."""


def kept_versions(
    there: Collection[int],
    promoted: Collection[int],
    serving: int | None,
    keep: int = KEEP_VERSIONS,
) -> set[int]:
    """Of the versions there are, those whose files stay.

    Args:
        there: numbers of the versions that have files.
        promoted: numbers of the promoted ones, the newest of which ranks.
        serving: the version of the publication that serves, if one does.
        keep: how many of the newest stay.
    """
    kept = set(sorted(there)[-keep:])
    for used in (max(promoted, default=NO_VERSION), serving or NO_VERSION):
        before = sorted(number for number in promoted if number in there and number < used)
        kept.update([used, *before[-KEEP_EARLIER:]])
    return kept & set(there)


def removed_on_purpose(
    number: int,
    there: Collection[int],
    promoted: Collection[int],
    serving: int | None,
    keep: int = KEEP_VERSIONS,
) -> bool:
    """Whether a version without files is one that was pruned, and no loss."""
    kept = kept_versions({*there, number}, promoted, serving, keep)
    return number not in there and number not in kept


def prune(work: Workplace, row: Project) -> None:
    """Remove what none of a project's rounds to come, and nobody, will ask for."""
    ledger, registry, slug = work.ledger, work.registry, row.slug
    promoted, serving, keep = in_use(ledger, row)
    kept = kept_versions(registry.versions(slug), promoted, serving, keep)
    if (start := start_version(ledger, row.id)) is not None:
        kept.add(start.number)  # rounds to come may begin with it
    registry.prune_versions(slug, kept)
    # A folder that is away may come back, and must not be judged by what it has learnt from.
    used = kept | {max(promoted, default=NO_VERSION), serving or NO_VERSION}
    ledger.rounds.forget_details(row.id, KEEP_ROUNDS, KEEP_MANIFESTS, used)
    manifests = ledger.rounds.newest_manifests(row.id, KEEP_MANIFESTS)
    registry.prune_examples(
        slug, {entry["digest"] for manifest in manifests for entry in manifest if entry["digest"]}
    )
    ledger.publications.drop_rankings(row.id, KEEP_RANKINGS, KEEP_UNJUDGED)


def in_use(ledger: Ledger, row: Project) -> tuple[list[int], int | None, int]:
    """The numbers of the promoted versions, that of the one that serves, and how many of the newest
    stay beside them."""
    serving = ledger.publications.serving(row.id)
    promoted = ledger.versions.promoted_numbers(row.id)
    return promoted, None if serving is None else serving.version, _keep_versions(row)


def _keep_versions(row: Project) -> int:
    try:
        return parse_options(row.extra_params).keep_versions
    except BadOptions:  # of another release; a round says what is wrong with them
        return KEEP_VERSIONS
