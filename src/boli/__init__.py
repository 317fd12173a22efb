"""boli (玻璃, glass): an engine for large language models that you can see through."""

__version__ = "0.1.0"
