"""Parsing of arguments and configurations: class names, placeholders, guards, error messages."""
