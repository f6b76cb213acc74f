"""Seconds per rule from Snakemake's benchmark files."""

import csv
from pathlib import Path

import pytest

from deconfound.errors import DataError
from deconfound.report.timings import COLUMNS, prices, timings

HEAD = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"


def write(path: Path, seconds: str, memory: str, cpu: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{HEAD}{seconds}\t0:00:01\t{memory}\t1\t1\t1\t0\t0\t0\t{cpu}\n")


def test_rules_are_counted_and_summed_with_the_longest_first(tmp_path: Path) -> None:
    write(tmp_path / "timings/train/digits/seed0.tsv", "4.0", "100.0", "3.0")
    write(tmp_path / "timings/train/digits/seed1.tsv", "6.0", "300.0", "5.0")
    write(tmp_path / "timings/train/scenes/seed0.tsv", "5.0", "200.0", "4.0")
    write(tmp_path / "timings/fetch.tsv", "0.5", "-", "-")
    rules = timings(tmp_path / "timings", tmp_path)
    assert [rule.name for rule in rules] == ["train", "fetch"]
    with (tmp_path / "tables" / "timings.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        list(COLUMNS),
        ["train", "3", "15.00", "5.00", "6.00", "12.00", "4.00", "5.00", "200.00", "300.00"],
        ["fetch", "1", "0.50", "0.50", "0.50", "", "", "", "", ""],
    ]
    page = (tmp_path / "timings.html").read_text()
    assert "15.00" in page and "4 jobs" in page and "http" not in page


def test_no_benchmark_files_give_an_empty_page(tmp_path: Path) -> None:
    assert timings(tmp_path / "nothing", tmp_path) == []
    assert "0 jobs" in (tmp_path / "timings.html").read_text()


def test_a_foreign_file_among_the_benchmarks_is_named(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.tsv").write_text("x\ty\n1\t2\n")
    with pytest.raises(DataError, match=r"a\.tsv"):
        timings(tmp_path, tmp_path)


def test_a_defense_is_priced_against_the_undefended_model_of_the_same_data_and_seed(tmp_path: Path) -> None:
    for poison, seed, plain, defended in [("bad", 0, 2.0, 6.0), ("bad", 1, 4.0, 4.0), ("clean", 0, 3.0, 6.0)]:
        write(tmp_path / f"train/d/{poison}/m/standard/seed{seed}.tsv", str(plain), "1", "1")
        write(tmp_path / f"defend/d/{poison}/m/cbd/seed{seed}.tsv", str(defended), "1", "1")
    write(tmp_path / "defend/d/bad/m/cbd/seed2.tsv", "9.0", "1", "1")  # its undefended model was not timed
    write(tmp_path / "defend/d/bad/m/nad/seed0.tsv", "-", "1", "1")
    write(tmp_path / "train/d.tsv", "9.0", "1", "1")
    (price,) = prices(tmp_path)
    assert (price.dataset, price.model, price.defense) == ("d", "m", "cbd")
    assert sorted(price.ratios) == [1.0, 2.0, 3.0]
    assert price.row() == ["d / m / cbd", "3", "6.00", "2.00", "1.00", "3.00"]
    kept = ["train/d/bad/m/standard/seed0.tsv", "defend/d/bad/m/cbd/seed0.tsv"]
    assert [found.ratios for found in prices(tmp_path, kept)] == [[3.0]]
    timings(tmp_path, tmp_path / "out")
    assert "Training time relative to the undefended model" in (tmp_path / "out/timings.html").read_text()
    timings(tmp_path / "nothing", tmp_path / "none")
    assert "relative to" not in (tmp_path / "none/timings.html").read_text()
