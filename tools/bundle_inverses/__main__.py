"""Put kept inverses of the bundled models into the package: ``python tools/bundle_inverses FOLDER...``.

The folders are those that a run of the suite ``bundled`` leaves in ``OUT/inverses/bundled/``. Without one, the inverses
that are in the package are scored anew: the suite may have other scored images than it had.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bundle_inverses.bundle import bundle, rescore
from invsuite.apply.places import bundled_inverses

if __name__ == "__main__":
    for folder in sys.argv[1:]:
        bundle(Path(folder))
    if not sys.argv[1:]:
        for name, place in bundled_inverses().items():
            print(name, rescore(place), flush=True)
