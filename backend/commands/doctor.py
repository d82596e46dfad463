"""`doctor`: what fails silently, and how to fix it."""

from __future__ import annotations

import click

from backend.commands.shared import ANY_PROJECT, AS_JSON, print_json
from backend.settings import load_settings
from backend.workplace import Workplace


@click.command()
@ANY_PROJECT
@click.option("--fix", is_flag=True, help="Fix what can be fixed from here.")
@AS_JSON
def doctor(studio_id: int | None, fix: bool, as_json: bool) -> None:
    """Look for every silent failure between Label Studio and us."""
    from backend.insight.findings.examine import apply_fix, examine
    from backend.insight.findings.text import describe_findings

    # Not open_workplace: a ledger of another release is one of the findings.
    work = Workplace(load_settings())
    try:
        chosen = None if studio_id is None else [studio_id]
        findings = examine(work, chosen)
        if fix:
            for finding in findings:
                if finding.fixable:
                    click.echo(apply_fix(work, finding), err=as_json)
            findings = examine(work, chosen)
    finally:
        work.close()
    if as_json:
        print_json([finding.to_json() for finding in findings])
    else:
        click.echo(describe_findings(findings))
    if any(finding.severity == "error" for finding in findings):
        raise SystemExit(1)
