"""Tables of numbers in memory, either generated with known ground truth or read from files."""
