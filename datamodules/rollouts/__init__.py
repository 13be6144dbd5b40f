"""States that a policy visits in a simulated environment, with what an expert would do there."""
