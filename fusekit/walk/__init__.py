"""Running a graph: the walk through its events, scans, and what happens to values on the way."""
