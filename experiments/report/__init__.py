"""From results to what a paper needs: frames, tables, plots, claims and one page. Reads results alone, changes none."""
