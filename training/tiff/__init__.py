"""TIFF: which of its pages and samples are the image, and their pixels.

tifffile reads a page's tags and decodes its strips; what a file declares is checked before it.
"""
