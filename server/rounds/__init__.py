"""One round: asking, answers, what is noted and told."""
