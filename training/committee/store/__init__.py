"""Where a registry's files lie: in a folder, or in an object store. Brings no torch."""
