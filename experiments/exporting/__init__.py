"""Export the computation of a run's model to files that can be loaded without this project."""
