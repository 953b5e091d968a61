"""Fixtures are defined where they belong and named here, so that every test can ask for them."""

from harness_fixtures import cli, migrated, store_uri
from worker_tools import hugging_face_as_it_is

__all__ = ["cli", "hugging_face_as_it_is", "migrated", "store_uri"]
