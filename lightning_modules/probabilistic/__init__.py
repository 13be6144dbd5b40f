"""Laws and what is learned of them: densities, processes, graphs and sequences, from rows of numbers."""
