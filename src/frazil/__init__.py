"""frazil: single-particle cryo-EM from movies to moving molecules with one differentiable model of image formation."""

__version__ = "0.1.0"
