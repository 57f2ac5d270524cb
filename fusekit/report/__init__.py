"""What fusekit tells about an experiment: summaries, diagrams, the component reference."""
