"""Export of what a run's model computes, as files that load without this project."""
