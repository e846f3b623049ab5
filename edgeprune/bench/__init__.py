"""Measuring engines on the device that will run them."""
