"""What a run gave: records that can be put in a frame, compared, checked, merged and rendered."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, overload
from urllib.parse import quote

from invsuite._system.collection import no_collection
from invsuite._system.files import write_atomically
from invsuite.errors import UsageError
from invsuite.report.devices import Devices, devices_of_rows
from invsuite.results.baseline import Baseline, Judgement, judge, load_baseline
from invsuite.results.compare import compare_rows
from invsuite.results.frame import to_csv, to_frame
from invsuite.results.matrices import Matrix, matrices
from invsuite.results.merge import merge_runs, relations_of, tell_apart, without_ghosts
from invsuite.results.outcome import RunOutcome
from invsuite.results.published import PublishedValue, read_published
from invsuite.results.record import Record, RelationRecord, Weights
from invsuite.results.rows import Places, Row, all_places, by_model, rows_of
from invsuite.results.store import Store

if TYPE_CHECKING:
    import pandas as pd

    from invsuite.report.figures import Choice

OUT = "results"  # the folder of a run that names none
EXPLORE = "-explore.html"  # after the suite's name
BUNDLED = "bundled"  # first word of where the weights of the suite's own small models come from


@dataclass(frozen=True, eq=False)
class Results(Sequence[Record]):
    """The records of a suite, in the order of its tables.

    Examples:
        >>> import invsuite
        >>> images = [invsuite.open_images("scenes", (96, 96), seed=seed, count=16) for seed in (1, 2)]
        >>> inverses = [invsuite.fit(method, "bundled:vit", ["embed"], images[0]) for method in ("mean", "ridge")]
        >>> floor, ridge = (invsuite.score(each, images[1], ["psnr"]) for each in inverses)
        >>> results = floor.merge(ridge)
        >>> list(results.to_frame()["measure"])
        ['psnr', 'psnr']
        >>> results.compare("vit/embed/ridge", "vit/embed/mean")["verdict"][0]
        'vit/embed/ridge is better'

    Attributes:
        records: one per cell.
        relations: how the stages of models relate, where the suite asks for it.
        stores: where the pictures of each run lie, by the run's name; None for one that was not written.
        notes: what a reader must know of merged runs.
        outcome: what the run did that gave them; None where they were loaded.
        published: what papers state for the suite's protocol.
    """

    records: Sequence[Record]
    relations: Sequence[RelationRecord] = ()
    stores: Mapping[str, Store | None] = field(default_factory=dict)
    notes: Sequence[str] = ()
    outcome: RunOutcome | None = None
    published: Sequence[PublishedValue] = ()

    @classmethod
    @no_collection()
    def load(cls, folder: Path, run: str = "", current: Collection[str] = ()) -> Results:
        """Return what a store's folder holds: of every cell and every model's relations the newest record.

        A model that could not be had later does not hide what it gave before, and what it left while it could not be
        had is gone once it can. Records of other images, weights or budgets than the newest are models of their own
        (`invsuite.results.merge.tell_apart`).

        Args:
            folder: of the records.
            run: what the run is called where it is merged with others; the folder by default.
            current: ids of the records of the run that was made just now, which count as the newest.

        Raises:
            DataError: naming a record that was changed after it was written.
            UsageError: naming a record of another schema.
        """
        store, name = Store(folder), run or str(folder)
        every = without_ghosts(list(store.records()))
        by_age = sorted(every, key=lambda r: ("refused" not in r.identity, r.cell.id in current, r.provenance.written))
        newest, notes = tell_apart(list({record.cell.key: record for record in by_age}.values()), current)
        records = [r if r.run is None else replace(r, run=replace(r.run, name=name)) for r in newest]
        relations = sorted(store.interlayer().records(), key=lambda r: r.provenance.written)
        related = relations_of(records, relations) if notes else {r.cell.model: r for r in relations}.values()
        return cls(
            sorted(records, key=lambda r: r.cell.order),
            list(related),
            {name: store},
            notes,
            published=read_published(folder),
        )

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | Sequence[Record]:
        return self.records[index]

    def __len__(self) -> int:
        return len(self.records)

    @cached_property
    def done(self) -> list[Record]:
        """Return the records with numbers."""
        return [record for record in self.records if record.ok]

    @cached_property
    def models(self) -> dict[str, list[Record]]:
        """Return the records of each model, in order."""
        return by_model(self.records)

    @cached_property
    def rows(self) -> list[Row]:
        """Return the rows of tables: a stage that a method does not apply to is none."""
        return rows_of(record for record in self.records if not record.settled)

    @cached_property
    def places(self) -> Places:
        """Return the place of every row within its stage, by each measure."""
        return all_places(self.rows)

    @cached_property
    def between(self) -> dict[str, list[Matrix]]:
        """Return how the stages of each model relate, as matrices."""
        return {
            model: matrices(own, [relation for relation in self.relations if relation.cell.model == model])
            for model, own in self.models.items()
        }

    def published_of(self, model: str) -> list[PublishedValue]:
        """Return what papers state of a model; random weights, and a model of another name, are none of theirs."""
        names = {record.original_model for record in self.models[model]}
        return [value for value in self.published if value.model in names]

    @property
    def weights(self) -> dict[str, Weights]:
        """Return where the weights of each model come from, of those that could be had."""
        return {record.cell.model: record.weights for record in self.records if record.weights is not None}

    @cached_property
    def devices(self) -> Devices:
        """Return the devices, with their clocks, on which the rows' times were measured."""
        return devices_of_rows(self.rows)

    @property
    def name(self) -> str:
        """Return the name of the suite, by which files are called."""
        return self.records[0].cell.suite + ("-merged" if len(self.stores) > 1 else "")

    @property
    def title(self) -> str:
        """Return the suite's title as its newest record has it, and which models have numbers.

        A run need not be of all models of the suite. The small bundled ones and those with random weights, as the
        records say, are named as such, for they are not what a reader may take them for.
        """
        weights = self.weights
        small = [model for model, origin in weights.items() if origin.source.startswith(f"{BUNDLED} ")]
        random = [model for model, origin in weights.items() if origin.random]
        merged = [f"{len(self.stores)} runs merged"] if len(self.stores) > 1 else []
        plain = [model for model in by_model(self.done) if model not in {*small, *random}]
        kinds = {"models": plain, "small bundled models": small, "RANDOM WEIGHTS, untrained": random}
        named = [f"{kind}: {', '.join(models)}" for kind, models in kinds.items() if models]
        newest = max(self.records, key=lambda record: record.provenance.written)
        return " - ".join([newest.cell.title, *merged, *named])

    @property
    def states(self) -> dict[str, int]:
        """Return how many records there are of each state."""
        return dict(sorted(Counter(record.state for record in self.records).items()))

    @cached_property
    def missing(self) -> dict[str, list[Record]]:
        """Return why cells or measures are missing, and what the suite noticed: the records of each reason.

        Measures that lack the same cells for the same reason stand together.
        """
        reasons: dict[str, list[Record]] = {}
        of_measures: dict[tuple[str, str], list[Record]] = {}  # by label, and state with reason
        for record in self.records:
            if not record.ok:
                reasons.setdefault(f"{record.state}: {record.reason}", []).append(record)
                continue
            for flag in record.flags:
                reasons.setdefault(f"flagged: {flag}", []).append(record)
            for measurement in record.measurements.values():
                if measurement.reason:
                    state = "not defined for some images" if measurement.ok else measurement.status
                    of_measures.setdefault((measurement.label, f"{state}: {measurement.reason}"), []).append(record)
        alike: dict[tuple[str, tuple[str, ...]], list[str]] = {}
        for (label, why), records in of_measures.items():
            alike.setdefault((why, tuple(record.cell.id for record in records)), []).append(label)
        for (why, _), labels in alike.items():
            reasons[f"{', '.join(labels)} {why}"] = of_measures[labels[0], why]
        return reasons

    def store_of(self, record: Record) -> Store | None:
        """Return the store that has a record's pictures, if there is one."""
        if record.run is not None:
            return self.stores.get(record.run.name)
        return next(iter(self.stores.values()), None)

    def to_frame(self, costs: bool = False) -> pd.DataFrame:
        """Return one line per cell and measure: unit, direction, n, mean and 95 % interval (``low``, ``high``).

        Args:
            costs: whether time, memory, operations and held values are lines too.
        """
        return to_frame(self.records, costs)

    def compare(self, first: str, second: str, metrics: Sequence[str] | None = None) -> pd.DataFrame:
        """Return the paired differences of two rows (MODEL/STAGE/METHOD), a line per measure.

        Args:
            first: row; the difference is positive where it is the better one.
            second: row that it is held against.
            metrics: names of measures; None takes every one that both rows have values of.

        Raises:
            UsageError: for a row or measure that is not there.
        """
        import pandas as pd

        return pd.DataFrame([asdict(c) for c in compare_rows(self.records, first, second, metrics)])

    def check(self, baseline: Baseline | Path | str) -> list[Judgement]:
        """Return the verdicts on every cell and measure of a pinned baseline, or of the file that holds it.

        Raises:
            UsageError: for a file that holds no baseline.
        """
        pinned = baseline if isinstance(baseline, Baseline) else load_baseline(Path(baseline))
        return judge(self.records, pinned)

    def merge(self, *others: Results) -> Results:
        """Return this run and others as one: ranked where that is fair, told apart in words where it is not.

        Of a cell that several runs have, the newest success counts (`invsuite.results.merge`).
        """
        runs: dict[str, list[Record]] = {}
        relations: dict[str, list[RelationRecord]] = {}
        stores: dict[str, Store | None] = {}
        for number, results in enumerate((self, *others)):
            own = next(iter(results.stores), f"run {number + 1}")
            stores |= results.stores or {own: None}
            for record in results.records:
                cell = replace(record.cell, model=record.original_model)
                runs.setdefault(record.run.name if record.run else own, []).append(replace(record, cell=cell))
            for relation in results.relations:
                name = replace(relation.cell, model=relation.original_model)
                run = relation.run.name if relation.run else own
                relations.setdefault(run, []).append(replace(relation, cell=name))
        merged = merge_runs(runs, relations)
        published = tuple(dict.fromkeys(value for results in (self, *others) for value in results.published))
        return Results(merged.records, merged.relations, stores, merged.notes, published=published)

    def report(self, folder: Path | str, choice: Choice | None = None) -> list[Path]:
        """Write tables, CSV, the page and pictures to a folder.

        ``NAME.md``, ``NAME.csv`` and ``NAME.html`` are called by the suite; each model has a strip of reconstructions
        and, where its stages are related, heat maps.

        Args:
            folder: where they go.
            choice: which photos the strips show, and how; the first ones by default.

        Returns:
            The files.

        Raises:
            DiskError: if the disk refuses.
            UsageError: for photos of which no picture is kept.
        """
        from invsuite.report.figures import Choice, draw_heat_maps, draw_strip
        from invsuite.report.html import html_page
        from invsuite.report.markdown import markdown

        folder = Path(folder)
        table, values, page = (folder / f"{self.name}.{ending}" for ending in ("md", "csv", "html"))
        strips, maps = {}, {}
        separate: list[Path] = []
        for model, records in self.models.items():
            stem = f"{self.name}-" + re.sub(r"[^\w.-]+", "-", model).strip("-")  # a merged model's name may have blanks
            drawn = draw_strip(model, records, self.store_of, folder / f"{stem}.png", choice or Choice())
            if drawn:
                strips[model] = f"{stem}.png"
                separate += drawn[1:]
            if draw_heat_maps(model, self.between[model], folder / f"{stem}-interlayer.png"):
                maps[model] = f"{stem}-interlayer.png"
        with no_collection():
            write_atomically(table, markdown(self, strips, maps).encode())
            write_atomically(values, to_csv(self.records, self.published).encode())
            write_atomically(page, html_page(self, self._explore_page(folder)).encode())
        return [table, values, page, *(folder / name for name in (*strips.values(), *maps.values())), *separate]

    def explore(self, folder: Path | str, choice: Choice | None = None, megabytes: float | None = None) -> Path:
        """Write ``NAME-explore.html``, a page to look at reconstructions with, to a folder.

        The report's page, if the folder has one, is written again with a link to it.

        Args:
            folder: where it goes.
            choice: which photos it shows; the first ones by default.
            megabytes: that its pictures may take; beyond it they are lossy, then smaller. 12 by default.

        Returns:
            The file.

        Raises:
            DiskError: if the disk refuses.
            UsageError: for photos of which no picture is kept.
        """
        from invsuite.report.explore import MEGABYTES, explore_page, record_address
        from invsuite.report.figures import Choice
        from invsuite.report.html import html_page

        folder = Path(folder)
        report, path = folder / f"{self.name}.html", folder / f"{self.name}{EXPLORE}"
        address = quote(report.name) if report.is_file() else ""
        limit = MEGABYTES if megabytes is None else megabytes
        page = explore_page(self, choice or Choice(), limit, address, record_address(self, folder))
        write_atomically(path, page.encode())
        if address:
            with no_collection():
                write_atomically(report, html_page(self, self._explore_page(folder)).encode())
        return path

    def _explore_page(self, folder: Path) -> str:
        """Return the address of the page of pictures in a folder; "" where there is none."""
        path = folder / f"{self.name}{EXPLORE}"
        return quote(path.name) if path.is_file() else ""


def load_results(folder: Path | str = OUT, suite: str = "", current: Collection[str] = ()) -> Results:
    """Return what runs of a suite left in a folder.

    Args:
        folder: what the run was given as ``out``.
        suite: the suite's name; needed where the folder has several.
        current: ids of the records that count as the newest (`Results.load`).

    Raises:
        UsageError: if there are no records, or of several suites and none is named.

    Examples:
        >>> import invsuite
        >>> which = {"models": ["vit"], "stages": ["embed"], "methods": ["exact"], "metrics": ["psnr"]}
        >>> results = invsuite.run("quick", **which, out="there")
        >>> invsuite.load_results("there")[0] == results[0]
        True
    """
    folders = Path(folder) / "records"
    names = sorted(path.name for path in folders.iterdir() if path.is_dir()) if folders.is_dir() else []
    if not suite and len(names) > 1:
        raise UsageError(f"'{folder}' has records of several suites, name one: {', '.join(names)}")
    suite = suite or next(iter(names), "quick")
    results = Results.load(store_of(suite, folder).folder, str(folder), current)
    if not results.records:
        raise UsageError(f"no records of suite '{suite}' in '{folder}'; run: invsuite bench --suite {suite}")
    return results


def store_of(suite: str, out: Path | str) -> Store:
    """Return where the records of the suite of this name are."""
    return Store(Path(out) / "records" / suite)
