"""Random numbers that follow from (seed, epoch, sample), the same on any number of ranks."""
