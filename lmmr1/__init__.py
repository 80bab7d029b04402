"""The compact GRPO core: samples in, a trained checkpoint and its step log out. It imports nothing else of ours."""

NUMERICS = 6
"""Bump when a change may alter training numbers: it is part of every checkpoint key, so arms are trained anew."""

__version__ = "0.1.0"
