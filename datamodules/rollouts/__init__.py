"""States that a policy visits in a simulated environment, and the expert's actions in these states."""
