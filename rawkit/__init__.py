"""Camera raw noise: calibrate a sensor, denoise a raw file, make realistic noisy raws."""
