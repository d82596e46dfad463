"""Labels as mask files: out of a project and into one."""
