"""`python -m harness.compare`: runs, sweeps, reports or commits against each other, with a verdict."""
