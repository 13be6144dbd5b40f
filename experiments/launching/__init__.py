"""Launch the runs of a comparison on this machine, SLURM or Ray."""
