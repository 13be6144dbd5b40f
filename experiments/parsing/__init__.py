"""Parse arguments and configurations: class names, placeholders, guards and error messages."""
