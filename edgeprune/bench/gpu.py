"""NVIDIA's GPU as its driver names it, through libcuda with ctypes; no context is made on it.

Source: CUDA driver API: cuInit, cuDeviceGet, cuDeviceGetName, cuDeviceGetAttribute (75 and 76: compute capability).
"""

from __future__ import annotations

import ctypes

_MAJOR, _MINOR = 75, 76


def gpu() -> str | None:
    """The first GPU, as 'Orin (compute capability 8.7)'; None where there is no driver or no GPU."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0) or driver.cuDeviceGetName(name, 256, device):
        return None
    numbers = [ctypes.c_int(), ctypes.c_int()]
    for number, attribute in zip(numbers, (_MAJOR, _MINOR), strict=True):
        if driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, device):
            return name.value.decode(errors="replace")
    return f"{name.value.decode(errors='replace')} (compute capability {numbers[0].value}.{numbers[1].value})"
