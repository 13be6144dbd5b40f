"""Readers and writers of files: images, arrays, whole-file writing, where data lie."""
