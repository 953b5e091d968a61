"""Carries out jobs and sweeps: where, how often, and what becomes of them when something ends early."""
