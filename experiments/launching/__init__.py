"""Launch the runs of a comparison, on this machine, with SLURM or with Ray."""
