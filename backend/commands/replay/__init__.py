"""`replay`: a labelled folder played through the live system; only cli imports it."""
