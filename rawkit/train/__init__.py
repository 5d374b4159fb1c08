"""Training: clean light, simulated capture, one straight loop.  Imports torch, numpy, safetensors and Pillow only."""
