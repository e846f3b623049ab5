"""DeviceInfo: what a device is and in which state it was, as it says itself."""

from __future__ import annotations

from pydantic import Field

from edgeprune.records.base import Record


class CpuFrequency(Record):
    """Cores that share one clock: a cpufreq policy."""

    cpus: str
    """Its cores, as the kernel lists them: '0 1 2 3'."""
    governor: str
    """What chooses the frequency: performance, schedutil, ondemand …"""
    current_mhz: float
    """Now, in MHz."""
    minimum_mhz: float
    """Lowest that it may go to now, in MHz: a power mode sets it."""
    maximum_mhz: float
    """Highest that it may go to now, in MHz."""


class DeviceInfo(Record):
    """One device. A field is null, or a collection empty, where the device has no such thing or doesn't report it."""

    board: str | None
    """The model: device tree, else DMI."""
    soc: str | None
    """The system on a chip, or the processor's name."""
    cores: int = Field(ge=1)
    """Cores that a process may use."""
    memory_bytes: int | None
    """RAM as the kernel counts it."""
    os: str | None
    """The distribution: PRETTY_NAME of os-release."""
    kernel: str
    """Release of the kernel."""
    architecture: str
    """aarch64, x86_64 …"""
    emulated: str | None = None
    """Why it is taken for an emulated machine, whose times are none; null where nothing speaks for it."""
    python: str
    """Version of the Python that answered."""
    edgeprune: str
    """Version of edgeprune there."""
    runtimes: dict[str, str]
    """Runtime -> version, of those that are installed."""
    frequencies: tuple[CpuFrequency, ...]
    """Clocks of the cores; empty where the machine doesn't show them (virtual machines)."""
    l4t: str | None = None
    """Jetson: release of L4T and the JetPack that it belongs to, as '36.4.0 (JetPack 6.1-6.2)'."""
    gpu: str | None = None
    """NVIDIA: its name and compute capability, as the driver says them."""
    power_mode: str | None
    """Jetson: number and name of the nvpmodel mode."""
    clocks_pinned: dict[str, bool] = Field(default_factory=dict)
    """Group of cores, GPU, or 'emc' (memory) -> whether its frequency can't move; empty where nothing tells."""
    throttled_now: tuple[str, ...] | None
    """What slows it down at this moment; null where it can't be told."""
    throttled_before: tuple[str, ...] | None
    """What has done so since it was started; null where it can't be told."""
    temperatures_c: dict[str, float]
    """Thermal zone -> degrees Celsius."""
    free_bytes: int = Field(ge=0)
    """Space left for this user where the device side is installed (the home folder's disk)."""
    clock_offset_s: float | None = None
    """Its clock against the host's, seconds, positive = ahead; null for this machine."""
    clock_uncertainty_s: float | None = None
    """Half the round trip in which the clock was read, seconds: the offset is known no better."""
