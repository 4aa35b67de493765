"""The version of this package. Modules take it from here, so that none imports the root."""

__version__ = "0.1.0"
