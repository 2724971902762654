"""From updates on disk to the next global model: means, robust rules, private means."""
