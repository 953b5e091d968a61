"""Benchmark harness: one measured process per run, one report per process, MLflow beside it."""
