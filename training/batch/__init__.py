"""Batch prediction: a version predicts a folder of images, and tables say what is in them."""
