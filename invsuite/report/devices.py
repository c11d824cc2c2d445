"""The devices on which a page's times were measured: seconds of several do not compare, so that tables mark them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from invsuite.report.texts import listed
from invsuite.results.rows import Row

MARK = "‡"  # beside times of another device than most


class Devices:
    """The devices of a page's rows, each with its clock, the most frequent first.

    Args:
        devices: of every row; "" for a row whose seeds or stages ran on several.

    Examples:
        >>> devices = Devices(["CPU, wall", "CPU, wall", "GPU, cuda-event", ""])
        >>> devices.marked("1.5", "CPU, wall"), devices.marked("0.1", "GPU, cuda-event"), devices.marked("0.8", "")
        ('1.5', '0.1 ‡', '-')
    """

    def __init__(self, devices: Iterable[str]) -> None:
        self._rows = dict(Counter(devices).most_common())
        self._marks = {device: MARK * place for place, device in enumerate(filter(None, self._rows))}

    @property
    def several(self) -> bool:
        """Tell whether there are times that do not compare."""
        return len(self._rows) > 1

    @property
    def clocks(self) -> str:
        """Return what the seconds were read from, as headings have it: "wall", or "cuda-event/wall" of several."""
        return "/".join(sorted({device.rpartition(", ")[2] for device in self._marks})) or "wall"

    def marked(self, text: str, device: str) -> str:
        """Return a time of a device, marked where most rows have another one; "-" where it is of several."""
        return f"{text} {self._marks[device]}".rstrip() if device else "-"

    def usual(self, device: str) -> bool:
        """Tell whether a device is the one that most rows have."""
        return device in self._marks and not self._marks[device]

    def text(self, noun: str = "row") -> str:
        """Return the devices in words, each with how many rows it has and the mark of their times."""
        parts = []
        for device, count in self._rows.items():
            mark = f", times marked {mark}" if (mark := self._marks.get(device)) else ""
            whole = device or f"several devices within the {noun}"
            parts.append(f"{whole} ({count} {noun}{'s' * (count > 1)}{mark or ', without times' * (not device)})")
        return listed(parts)

    def note(self, noun: str = "row") -> list[str]:
        """Return a sentence that says which times do not compare; none where all do."""
        if not self.several:
            return []
        return [
            f"Times and memory are of {self.text(noun)}. Compare them within one device only; operations (TFLOP) "
            "compare across devices."
        ]


def devices_of_rows(rows: Iterable[Row]) -> Devices:
    """Return the devices of the rows that have times."""
    return Devices(device_of([row]) for row in rows if row.devices)


def device_of(rows: Iterable[Row]) -> str:
    """Return the device, with its clock, of all records of rows; "" where they ran on several, or have no times."""
    devices = {device for row in rows for device in row.devices}
    return devices.pop() if len(devices) == 1 else ""
