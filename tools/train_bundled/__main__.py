"""Train the two bundled models again from nothing: ``python tools/train_bundled --out FOLDER``."""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the folder runs as a script, without being installed

from train_bundled.train import train_all

parser = argparse.ArgumentParser(prog="python tools/train_bundled", description=__doc__)
parser.add_argument("--out", type=Path, default=Path("bundled"), help="folder for the weights and card.json")
parser.add_argument("--scale", type=float, default=1.0, help="share of the full recipe's steps (1 takes 50 minutes)")
options = parser.parse_args()
card = train_all(options.out, options.scale, lambda line: print(line, file=sys.stderr, flush=True))
print(json.dumps(card, indent=1))
