"""stagescope: a terminal microscope for the layers of a language model."""

__version__ = "0.1.0"
