"""Train bundled models again from nothing: ``python tools/train_bundled --out FOLDER``."""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the folder runs as a script, without being installed

from train_bundled.train import TRAININGS, train_all

parser = argparse.ArgumentParser(prog="python tools/train_bundled", description=__doc__)
parser.add_argument("--models", nargs="+", choices=TRAININGS, default=list(TRAININGS), help="which (default: all)")
parser.add_argument("--out", type=Path, default=Path("bundled"), help="folder for weights and cards")
parser.add_argument("--scale", type=float, default=1.0, help="share of the recipes' steps (1 takes two hours)")
options = parser.parse_args()
cards = train_all(options.out, options.models, options.scale, lambda line: print(line, file=sys.stderr, flush=True))
print(json.dumps(cards, indent=1))
