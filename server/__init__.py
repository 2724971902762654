"""The operator's side: strategy, aggregation, Flower Grid over gRPC, sites, runs, simulation, and the command."""
