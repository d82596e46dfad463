"""The doctor: what fails silently between Label Studio and us, and how to fix it; commands and web
may import it.

A new check is a function in the module of its topic, a line in ``checks`` and a test.
"""
