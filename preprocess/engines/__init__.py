"""Segmentation libraries and the child process that they run in; imports nothing heavy, so that the child starts at once."""
