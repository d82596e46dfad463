"""`python -m tests.bench [NAME ...]`: measure the rows, print the table, write bench.json."""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.bench import harness


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description="Measure ours beside its peer, in one process."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="rows to measure; default all")
    parser.add_argument("--list", action="store_true", help="name the rows and stop")
    parser.add_argument(
        "--output", type=Path, default=Path("bench.json"), help="default: bench.json"
    )
    arguments = parser.parse_args()
    harness.load_rows()
    try:
        rows = harness.choose(arguments.names)
    except ValueError as error:
        parser.error(str(error))
    if arguments.list:
        for row in rows:
            print(f"{row.issue:<14}{row.name:<22}{row.against}")
        return
    outcomes = harness.run(rows, arguments.output)
    missed = [outcome.name for outcome in outcomes if not outcome.met]
    print(
        f"Wrote {arguments.output}. " + (f"Missed: {', '.join(missed)}." if missed else "All met.")
    )


if __name__ == "__main__":
    main()
