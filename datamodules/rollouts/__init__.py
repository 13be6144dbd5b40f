"""States that a policy visits in a simulated environment, and the actions of an expert in these states."""
