"""The experiment framework for LTX-2: one model definition on PyTorch and MLX."""

__version__ = "0.1.0"
