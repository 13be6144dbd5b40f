"""Claims: statements of papers, the arms that they compare, and their verdicts."""
