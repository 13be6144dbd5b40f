"""Speech recordings, noisy and clean."""
