"""Check the suite on a machine with a GPU and without a network: ``python tools/gpu_check pack``, then ``run`` there.

``pack`` needs the project's environment. ``run`` begins with Python's own library alone: what the machine lacks comes
out of the pack.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

MODEL = "timm:vit_tiny_patch16_224"
WHEELS = "lpips==0.1.4,pycocotools,platformdirs"


def parser() -> argparse.ArgumentParser:
    """Return the two commands with their options."""
    whole = argparse.ArgumentParser(prog="python tools/gpu_check", description=__doc__)
    verbs = whole.add_subparsers(dest="verb", required=True)
    pack = verbs.add_parser("pack", help="put weights, photos and wheels into a folder that travels with the sources")
    pack.add_argument("--out", type=Path, default=Path(".gpu"), help="folder for the pack; one that is there goes")
    pack.add_argument("--photos", type=Path, required=True, help="folder of photos to fit on; as many go as have room")
    pack.add_argument("--coco", type=Path, required=True, help="COCO root whose first photos of val2017 are scored")
    pack.add_argument("--model", default=MODEL, help="timm model whose weights go (%(default)s; '' leaves them out)")
    pack.add_argument("--detector", type=Path, help="deimv2_hgnetv2_atto_coco.onnx")
    pack.add_argument(
        "--backbone",
        action="append",
        default=[],
        metavar="MEASURE=FILE",
        help="file with a network's features, for a measure: lpips_squeeze=FILE; may be given again",
    )
    pack.add_argument("--scored", type=int, default=48, help="photos to score (%(default)s)")
    pack.add_argument("--side", type=int, default=256, help="shorter side of the photos to fit on (%(default)s px)")
    pack.add_argument("--mib", type=float, default=44.0, help="size of the pack (%(default)s MiB)")
    pack.add_argument("--part", type=float, default=0.0, help="size of its parts, sent one by one (MiB; 0: one part)")
    pack.add_argument("--wheels", default=WHEELS, help="packages the machine lacks, comma-separated (%(default)s)")
    pack.add_argument("--python", default="3.12", help="Python of the machine (%(default)s)")
    run = verbs.add_parser("run", help="on the machine: test, time, benchmark, and write the page")
    run.add_argument("--pack", type=Path, default=Path(".gpu"), help="folder with all parts of the pack")
    run.add_argument("--out", type=Path, default=Path("gpu-out"), help="folder for what comes back")
    run.add_argument("--seconds", type=float, default=460.0, help="all of it ends after so long (%(default)s)")
    run.add_argument("--device", default="cuda", help="device (%(default)s)")
    run.add_argument("--suite", default="", help="suite to run (default: benchmarks/gpu.toml)")
    run.add_argument("--rate", default="", help="further options of rate.py, as one word")
    return whole


if __name__ == "__main__":
    options = parser().parse_args()
    if options.verb == "pack":
        from gpu_check.pack import pack

        print(pack(options))
    else:
        from gpu_check.run import run

        sys.exit(run(options))
