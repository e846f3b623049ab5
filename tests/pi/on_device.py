"""Runs ON the device, with the installed edgeprune: `python -I on_device.py MODEL WATCHED PIXELS.npy FOLDER`.

Into FOLDER: `plain-N.npz`, every output of the watched model without graph optimisation, for image N; `optimised.npy`,
what the model gives as an engine; `optimised.onnx`, the graph that ONNX Runtime makes of it here.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from edgeprune.runtime.session import open_session, open_unoptimised


def main() -> None:
    model, watched, pixels, folder = Path(sys.argv[1]), Path(sys.argv[2]), np.load(sys.argv[3]), Path(sys.argv[4])
    plain = open_unoptimised(watched.read_bytes())
    for number, image in enumerate(pixels):
        np.savez(folder / f"plain-{number}.npz", **plain({"images": image[None]}))
    del plain
    session = open_session("onnxruntime", model, "int8")
    np.save(folder / "optimised.npy", np.concatenate([session.run(image[None])[0] for image in pixels]))

    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
