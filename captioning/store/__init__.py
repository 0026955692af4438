"""Rows on disk: features or pixels of each picture, written once, memory-mapped."""
