"""Label Studio, the ledger, the jobs and the web."""

__version__ = "0.2.0"
