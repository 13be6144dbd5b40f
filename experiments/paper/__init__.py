"""What a paper needs of its runs: paired tests, tables that LaTeX and other programs read, and citations."""
