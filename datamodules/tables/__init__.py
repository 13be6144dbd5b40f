"""Tables: rows of numbers in memory, drawn with their truth or read from files."""
