"""What is going on and what is wrong, for terminal and pages; commands, web and jobs may import it.

Only the doctor's fixes write.

A model is a frozen dataclass that ``to_json`` turns into JSON; ``*_text`` prints it for a terminal.
"""
