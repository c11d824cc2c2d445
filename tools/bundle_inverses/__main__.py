"""Put kept inverses of the bundled models into the package: ``python tools/bundle_inverses FOLDER...``.

The folders are those that a run of the suite ``bundled`` leaves in ``OUT/inverses/bundled/``.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bundle_inverses.bundle import bundle

if __name__ == "__main__":
    for folder in sys.argv[1:]:
        bundle(Path(folder))
