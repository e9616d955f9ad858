"""The packages of the wheel: pyproject.toml can list them or find them, and here it takes both."""

from setuptools import find_packages, setup

found = find_packages(include=["backend*", "sam2model*", "training*"])
# The label configs lie beside the packages in the checkout and inside the backend's in the wheel.
setup(packages=[*found, "backend.examples"])
