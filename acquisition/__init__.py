"""Which image to label next: pure mathematics, arrays in and arrays out; anything may import it.

It imports numpy and torch alone.
"""
