"""Readers and writers of files: images, arrays, audio, video, tables and weights."""
