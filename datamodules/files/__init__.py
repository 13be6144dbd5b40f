"""Readers and writers for files: images, arrays, audio, video, tables and weights."""
