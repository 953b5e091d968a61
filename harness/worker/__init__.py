"""The measured process: obeys a spec, writes a report. Knows neither Hydra nor MLflow."""
