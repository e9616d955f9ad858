"""The service of ``tests/backend`` over a fake model."""

from tests.backend.conftest import bench, make_bench

__all__ = ["bench", "make_bench"]
