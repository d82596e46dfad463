"""The commands of `python -m backend`, one module each: parse, call, print; only cli imports it."""
