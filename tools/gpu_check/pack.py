"""The pack: what a bare machine lacks, as a tar file in parts that can be sent one by one."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from PIL import Image

PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
QUALITY = 80  # of the photos to fit on; those that are scored stay as they are
PHOTOS = {".jpg", ".jpeg", ".png", ".webp"}
MIB = 2**20


def pack(options: argparse.Namespace) -> str:
    """Put everything into ``options.out`` and return what is in it, as a line.

    Photos to fit on are taken in an order of their names' digests, until ``options.mib`` are full.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.wheels:
            _wheels(options.wheels.split(","), options.python, folder / "wheels")
        if options.model:
            _model(options.model, folder / "hub")
        for backbone in options.backbone:
            measure, _, file = backbone.partition("=")
            if not Path(file).is_file():
                sys.exit(f"--backbone '{backbone}' is no MEASURE=FILE: say lpips_squeeze=, and a file that is there")
            _backbone(measure, file, folder / "torch")
        if options.detector:
            (folder / "detector").mkdir()  # under its own name, by which its stages are known
            shutil.copy(options.detector, folder / "detector")
        scored = _coco(options.coco, folder / "coco", options.scored)
        room = round(options.mib * MIB) - _size(folder)
        fit = _photos(options.photos, folder / "photos", options.side, room)
        shutil.rmtree(options.out, ignore_errors=True)
        options.out.mkdir(parents=True)
        whole = folder.parent / f"{folder.name}.tar"
        try:
            with tarfile.open(whole, "w") as archive:
                archive.add(folder, arcname="pack")
            parts = _cut(whole, options.out, round(options.part * MIB) or whole.stat().st_size)
        finally:
            whole.unlink(missing_ok=True)
    size = f"{parts} parts, {_size(options.out) / MIB:.1f} MiB"
    return f"{options.out}: {size}; {fit} photos to fit on, {scored} to score"


def _wheels(packages: list[str], python: str, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--implementation", "cp", "--python-version", python, "--dest", str(folder)]
    command += [word for platform in PLATFORMS for word in ("--platform", platform)]
    subprocess.run([*command, *packages], check=True)


def _model(source: str, folder: Path) -> None:
    """Copy a model's weights from the hub's cache into one of the same form, without its links."""
    from huggingface_hub.constants import HF_HUB_CACHE

    from invsuite.models.load import load_model

    model = load_model(source)
    repository = model.origin.source.rsplit("(", 1)[1].rstrip(")")
    name = f"models--{repository.replace('/', '--')}"
    cached = Path(HF_HUB_CACHE) / name
    commit = (cached / "refs" / "main").read_text()
    (folder / name / "refs").mkdir(parents=True)
    (folder / name / "refs" / "main").write_text(commit)
    snapshot = folder / name / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for file in (cached / "snapshots" / commit).iterdir():
        if file.suffix in (".safetensors", ".json"):
            shutil.copyfile(file, snapshot / file.name)


def _backbone(measure: str, file: str, home: Path) -> None:
    """Install the features as `invsuite fetch` does, into a cache of torch's hub below ``home``."""
    command = [sys.executable, "-m", "invsuite", "fetch", measure, "--from", file]
    subprocess.run(command, check=True, env=os.environ | {"TORCH_HOME": str(home)}, stdout=subprocess.DEVNULL)


def _coco(root: Path, folder: Path, count: int) -> int:
    """Copy the first photos of val2017 with their annotations."""
    known = json.loads((root / "annotations" / "instances_val2017.json").read_text())
    images = [entry for entry in known["images"] if (root / "val2017" / entry["file_name"]).is_file()][:count]
    names = {entry["id"] for entry in images}
    annotations = [entry for entry in known["annotations"] if entry["image_id"] in names]
    (folder / "val2017").mkdir(parents=True)
    (folder / "annotations").mkdir()
    kept = known | {"images": images, "annotations": annotations}
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(kept))
    for entry in images:
        shutil.copyfile(root / "val2017" / entry["file_name"], folder / "val2017" / entry["file_name"])
    return len(images)


def _photos(source: Path, folder: Path, side: int, room: int) -> int:
    """Write as many photos as have ``room`` bytes, their shorter side at ``side`` pixels, and return how many."""
    folder.mkdir()
    files = [path for path in source.rglob("*") if path.suffix.lower() in PHOTOS]
    files.sort(key=lambda path: hashlib.sha256(path.name.encode()).hexdigest())
    count = 0
    for path in files:
        target = folder / f"{path.parent.name}-{path.stem}.jpg"
        with Image.open(path) as photo:
            rgb = photo.convert("RGB")
            scale = min(1.0, side / min(rgb.size))
            size = (round(rgb.width * scale), round(rgb.height * scale))
            rgb.resize(size, Image.Resampling.LANCZOS).save(target, "JPEG", quality=QUALITY)
        room -= target.stat().st_size
        if room < 0:
            target.unlink()
            break
        count += 1
    return count


def _cut(whole: Path, folder: Path, size: int) -> int:
    """Write a file in parts of ``size`` bytes, ``part1`` and so on, and return how many there are."""
    count = 0
    with whole.open("rb") as file:
        while part := file.read(size):
            count += 1
            (folder / f"part{count}").write_bytes(part)
    return count


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
