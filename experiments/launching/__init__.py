"""Launch the runs of a comparison: on this machine, through SLURM or through Ray."""
