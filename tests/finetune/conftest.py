"""The service over a fake model, as the tests of the service have it."""

from tests.backend.conftest import make_bench

__all__ = ["make_bench"]
