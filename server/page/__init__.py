"""The operator's page: how the federation is, what to do next, and a few actions; docs/operation.md."""
