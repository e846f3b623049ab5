"""Calibration sets: choosing their images, writing them down, and finding them again. Without torch."""
