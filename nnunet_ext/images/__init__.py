"""One 3D image: reading, writing, checks, and its grid in space."""
