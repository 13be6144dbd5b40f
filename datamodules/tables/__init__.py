"""Tables of numbers in memory, generated with known ground truth or read from files."""
