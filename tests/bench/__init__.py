"""The benchmarks of `make bench`: `python -m tests.bench [NAME ...]`.

To add a row, put a file ``rows_<subject>.py`` in this folder with a function under ``@row``; it
is found by its name. A row that needs servers names a context manager as its ``setting``: the
first row that needs it starts it, the rows that share it follow each other, and it is left after
the last of them.
"""
