"""Random numbers as a function of (seed, epoch, sample), the same for any number of ranks."""
