"""The gRPC side of the server: ports, sessions, transfers, tasks."""
