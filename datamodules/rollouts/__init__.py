"""States visited by a policy in a simulated environment, with an expert's actions in these states."""
