"""Training: clean light, simulated capture, one straight loop.  Needs torch, numpy, safetensors and Pillow only."""
