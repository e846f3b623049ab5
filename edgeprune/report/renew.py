"""report.html, made or made anew: a stage that needs nothing but the build's own folder.

Rules:
- It reads report.json, samples/ and, where they are there, benchmark.json, sweep.json, sizes.json and the latency
  tables that the plan was made by; so what is made later brings its sections with it, and the data set needn't be there
  any more.
- A benchmark of another bundle than the one that lies there isn't shown, and the page says so.
"""

from __future__ import annotations

from pathlib import Path

from edgeprune.errors import EdgepruneError
from edgeprune.records import Benchmark, Report, files, read_json
from edgeprune.records.files import sha256_file
from edgeprune.report.build_page import page
from edgeprune.report.latency_table import table_section, tables_of
from edgeprune.report.pareto import comparison_of, curve_section, curves_of, others
from edgeprune.report.samples import pictures
from edgeprune.version import __version__
from edgeprune.workshop import Workshop

PAGE = "report.html"
#: What the page shows beside report.json, where it is there.
BESIDE = ("benchmark.json", "bundle", "samples", "sweep.json", "sizes.json", "latency")


def renew(shop: Workshop, *, force: bool = False) -> Path:
    """Write report.html of the build in an open workshop unless it is as it should be.

    Returns:
        Where it is.

    Raises:
        EdgepruneError: report.json can't be read.
        DeviceError: The folder can't be written.
    """

    def act(work: Path) -> None:
        report = read_json(shop / "report.json", Report, EdgepruneError)
        benchmark, why_not = benchmark_of(shop.folder)
        files.write_bytes(
            work / PAGE,
            page(
                report, pictures(shop.folder, report.samples), benchmark, why_not,
                [
                    *(
                        curve_section(curve, others(shop.folder, curve.inputs))
                        for curve in curves_of(shop.folder, report.inputs)
                    ),
                    *map(table_section, tables_of(shop.folder)),
                ],
            ),
        )  # fmt: skip

    optional = {name: shop / name for name in BESIDE if (shop / name).exists()}
    if {"sweep.json", "sizes.json"} & set(optional):
        optional |= comparison_of(shop.folder)
    shop.stage(
        "page", act, reads={"report": shop / "report.json", **optional, "edgeprune": __version__}, makes=(PAGE,),
        force=force,
    )  # fmt: skip
    return shop / PAGE


def benchmark_of(folder: Path) -> tuple[Benchmark | None, str | None]:
    """The benchmark of the bundle that lies in a build's folder; or why the one that is there isn't."""
    file, bundle = folder / "benchmark.json", folder / "bundle"
    if not file.is_file():
        return None, None
    try:
        found = read_json(file, Benchmark, EdgepruneError)
    except EdgepruneError:
        return None, "The benchmark.json beside this report can't be read by this version."
    if not bundle.is_dir() or sha256_file(bundle) != found.bundle_sha256:
        return None, "The benchmark.json beside this report is of another bundle than the one that lies here."
    return found, None
