"""From a run's model to the lines: made, checked, signed, ordered, handed out."""
