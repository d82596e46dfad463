"""`make run`: everything on this machine; only cli may import it."""
