"""Tables: rows of numbers in memory, generated with known truth or read from files."""
