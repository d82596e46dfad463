"""Stamps of annotations, and pictures of a pool that became tasks, on both databases."""

from __future__ import annotations

from backend.ledger import Ledger
from tests.backend.rows import stamps_listing

NEW = "2026-11-24T00:00:00Z"


def test_stamps_are_written_with_up_to_where_they_are_known(ledger: Ledger) -> None:
    one, two = (ledger.projects.ensure("http://studio", number, 1) for number in (1, 2))
    assert ledger.stamps.listing(one.id) is None
    written = {7: [(1, NEW, False), (2, NEW, True)], 2**40: [(3, NEW, False)]}
    ledger.stamps.write(stamps_listing(one.id, changed_at=5.0), written)
    ledger.stamps.write(stamps_listing(two.id), {7: [(9, NEW, False)]})
    found = ledger.stamps.all(one.id)
    assert {task: [tuple(each) for each in stamps] for task, stamps in found.items()} == written
    ledger.stamps.write(
        stamps_listing(one.id, changed_at=6.0), {7: [(1, NEW, False)]}, gone=[2**40]
    )
    assert ledger.stamps.all(one.id) == {7: [[1, NEW, False]]}
    listing = ledger.stamps.listing(one.id)
    assert listing is not None
    assert listing.changed_at == 6.0
    assert ledger.stamps.all(two.id) == {7: [[9, NEW, False]]}


def test_a_picture_is_claimed_before_it_is_a_task(ledger: Ledger) -> None:
    row = ledger.projects.ensure("http://studio", 1, 1)
    assert ledger.pool.last_task(row.id) == 0
    ledger.pool.claim(row.id, [5, 2**62, 6])
    ledger.pool.settle(row.id, {2**62: 41, 5: 40})
    assert ledger.pool.claims(row.id) == {6}
    assert (ledger.pool.all(row.id), ledger.pool.last_task(row.id)) == ({5, 6, 2**62}, 41)
    ledger.pool.release(row.id)
    assert ledger.pool.all(row.id) == {5, 2**62}
