"""The alarm for lines that drift away from the model."""
