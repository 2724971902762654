"""The link to the server: sessions, tasks, transfers, and what survives a power cut."""
