"""Lists of runs: what is read of run directories, and the page that shows it."""
