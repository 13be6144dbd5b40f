"""Random numbers that depend only on (seed, epoch, sample), not on the number of ranks."""
