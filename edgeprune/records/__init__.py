"""What crosses a file or a process: pydantic models, frozen, unknown keys refused, units in the names."""

from __future__ import annotations

from edgeprune.records.address import DeviceAddress
from edgeprune.records.base import Record, read_json, read_yaml, write_json
from edgeprune.records.benchmark import Benchmark, BenchRequest, DeviceAnswer, Load
from edgeprune.records.board import BoardEngine
from edgeprune.records.bundle import Bundle, BundleFile, Lineage, TensorSpec
from edgeprune.records.calibration import CalibrationImage, CalibrationSet
from edgeprune.records.choice import PlannedTime, Trial
from edgeprune.records.device_info import CpuFrequency, DeviceInfo
from edgeprune.records.device_status import DeviceStatus, Heartbeat
from edgeprune.records.figures import Block, Box, Candidate, LatencyPicture, LayerWidth, Origin, Sample
from edgeprune.records.form import Form
from edgeprune.records.kit import Kit
from edgeprune.records.measurement import Accuracy, Comparison, Latency, Measurement, Parity, TensorParity
from edgeprune.records.plan import LayerKeep, PrunedGroup, PrunePlan
from edgeprune.records.quantization import Affine, Mixed, Quantization, Scheme
from edgeprune.records.recipe import Goal, Recipe
from edgeprune.records.release import Release, ReleaseBuild
from edgeprune.records.report import BenchRun, Offer, Report, Row, Verdict, VerifyRun
from edgeprune.records.rivals import Compared, ComparedRow
from edgeprune.records.rollout import Rollout, Selector, Wave
from edgeprune.records.settings import Settings
from edgeprune.records.sweep import Sweep
from edgeprune.records.target import TargetProfile
from edgeprune.records.tune import Choice, Tune, TuneCandidate

__all__ = [
    "Accuracy",
    "Affine",
    "BenchRequest",
    "BenchRun",
    "Benchmark",
    "Block",
    "BoardEngine",
    "Box",
    "Bundle",
    "BundleFile",
    "CalibrationImage",
    "CalibrationSet",
    "Candidate",
    "Choice",
    "Compared",
    "ComparedRow",
    "Comparison",
    "CpuFrequency",
    "DeviceAddress",
    "DeviceAnswer",
    "DeviceInfo",
    "DeviceStatus",
    "Form",
    "Goal",
    "Heartbeat",
    "Kit",
    "Latency",
    "LatencyPicture",
    "LayerKeep",
    "LayerWidth",
    "Lineage",
    "Load",
    "Measurement",
    "Mixed",
    "Offer",
    "Origin",
    "Parity",
    "PlannedTime",
    "PrunePlan",
    "PrunedGroup",
    "Quantization",
    "Recipe",
    "Record",
    "Release",
    "ReleaseBuild",
    "Report",
    "Rollout",
    "Row",
    "Sample",
    "Scheme",
    "Selector",
    "Settings",
    "Sweep",
    "TargetProfile",
    "TensorParity",
    "TensorSpec",
    "Trial",
    "Tune",
    "TuneCandidate",
    "Verdict",
    "VerifyRun",
    "Wave",
    "read_json",
    "read_yaml",
    "write_json",
]
