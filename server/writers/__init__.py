"""Writers: a run's figures for MLflow and TensorBoard, written beside the run and never in its way."""
