"""The facts that outlive a process, in SQL; everything above settings and errors may import it."""
