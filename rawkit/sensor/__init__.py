"""What the camera does to light."""
