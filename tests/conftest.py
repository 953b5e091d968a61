"""Fixtures are defined where they belong and named here, so that every test can ask for them."""

from harness_fixtures import cli, migrated, store_uri

__all__ = ["cli", "migrated", "store_uri"]
