"""A local page that denoises a part of a raw file while its settings are moved, and saves the whole."""
