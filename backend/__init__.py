"""Label Studio, the ledger, the jobs and the web; only ``_wsgi`` may import it."""

__version__ = "0.2.0"
