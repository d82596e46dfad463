"""Label Studio, the ledger, the jobs and the web."""
