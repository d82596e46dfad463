"""What is going on and what is wrong, read only, for terminal and pages; commands, web and jobs
may import it.

A model is a frozen dataclass that ``to_json`` turns into JSON; ``*_text`` prints it for a terminal.
"""
