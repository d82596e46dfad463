"""What is going on and what is wrong, for terminal and pages; commands and web may import it."""
