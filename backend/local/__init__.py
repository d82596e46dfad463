"""`make run`: starts and watches everything on this machine; only commands may import it."""
