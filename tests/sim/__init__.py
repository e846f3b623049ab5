"""Simulators of what isn't here: a board's TensorRT and its CUDA runtime."""
