"""Cost without the models' own decisions: the reads of a trace, done again by another pair."""
