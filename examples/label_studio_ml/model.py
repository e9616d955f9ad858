"""Where ``label-studio-ml`` looks for the model class."""

from backend.label_studio_ml import SAM2Backend as NewModel

__all__ = ["NewModel"]
