"""The benchmarks' deals, their figures and their tables."""

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.hold_out import VALIDATION_FRACTION, hold_out
from swarm.cli.app import build
from swarm.cli.bench import runs as bench_runs
from swarm.cli.bench.cases import DOMAINS, SKEW, TABLES, Case, chosen_cases, reduced
from swarm.cli.bench.collections import npz_collection
from swarm.cli.bench.images import resized
from swarm.cli.bench.results import (
    RULES,
    figures_of,
    is_done,
    missing_figures,
    read_runs,
    with_run,
    write_results,
)
from swarm.cli.bench.runs import BenchRequest, figure_rows, run_bench, settings_of
from swarm.cli.bench.tables import render_tables, write_tables
from swarm.cli.output import plain, run_guarded
from swarm.cli.up.deal import Deal
from swarm.cli.up.story import Outcome
from swarm.domain.errors import InvalidInputError, NotFoundError, UsageError

KEYS = {
    "skew": "mnist_classes2 fashion_classes2 fashion_dirichlet01 fashion_classes2_2mb fashion_classes2_exact",
    "domains": "cifar_classes2 domains_shared domains_distinct fewshot20 conflict",
}


def write_idx(path: Path, array: np.ndarray) -> None:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes(), 1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The collections in small: noise of the right shapes, with every class."""
    root = tmp_path_factory.mktemp("collections")
    rng = np.random.default_rng(0)

    def images(count: int, *shape: int) -> np.ndarray:
        return rng.integers(0, 256, (count, *shape), dtype=np.uint8)

    for name in ("mnist", "fashion-mnist"):
        for split, count in (("train", 9000), ("t10k", 1000)):
            write_idx(root / name / f"{split}-images-idx3-ubyte.gz", images(count, 28, 28))
            write_idx(root / name / f"{split}-labels-idx1-ubyte.gz", rng.permutation(np.arange(count) % 10))
    for name, classes, shape, letter in (
        ("cifar10_jpeg_subset", 10, (32, 32, 3), "y"),
        ("usps", 10, (16, 16), "y"),
        ("omniglot_small", 8, (28, 28), "a"),
    ):
        arrays = {"x_train": images(800, *shape), f"{letter}_train": np.arange(800) % classes}
        arrays |= {"x_test": images(200, *shape), f"{letter}_test": np.arange(200) % classes}
        np.savez(root / f"{name}.npz", **arrays)
    return root


def case_named(name: str) -> Case:
    return next(case for case in (*SKEW, *DOMAINS) if case.name == name)


def rows_of(deal: Deal) -> np.ndarray:
    return np.concatenate([data.inputs.reshape(len(data), -1) for data in deal.nodes.values()])


def test_the_tables_have_the_cases_that_they_promise() -> None:
    assert {table: " ".join(case.name for case in cases) for table, cases in TABLES.items()} == KEYS
    assert [case.name for case in chosen_cases("skew", ("fashion_classes2",))] == ["fashion_classes2"]
    with pytest.raises(UsageError, match="conflict"):
        chosen_cases("skew", ("conflict",))


@pytest.mark.parametrize("case", [*SKEW, *DOMAINS], ids=lambda case: case.name)
def test_every_case_deals_each_sample_once_and_the_same_again_under_its_seed(
    case: Case, folder: Path
) -> None:
    dealt = case.deal(folder, 1)
    rows = rows_of(dealt)
    assert len(np.unique(rows, axis=0)) == len(rows)
    assert len(dealt.nodes) + len(dealt.left_out) == 10
    assert all(len(data) >= 20 for data in dealt.nodes.values())
    assert {name for data in dealt.nodes.values() for name in data.class_names} <= set(dealt.class_names)
    assert np.array_equal(rows, rows_of(case.deal(folder, 1)))
    assert not np.array_equal(rows[:50], rows_of(case.deal(folder, 2))[:50])
    test = dealt.old_queries
    assert set(test.class_names) <= set(dealt.class_names)
    assert test.input_shape == next(iter(dealt.nodes.values())).input_shape


def test_the_domains_share_class_names_or_do_not(folder: Path) -> None:
    shared, distinct = (case_named(name).deal(folder, 0) for name in ("domains_shared", "domains_distinct"))
    assert sorted(shared.class_names, key=int) == [str(label) for label in range(10)]
    assert len(distinct.class_names) == 38
    for dealt in (shared, distinct):
        owners = [name.partition("-")[0] for name in dealt.nodes]
        assert [owners.count(name) for name in ("mnist", "fashion", "usps", "omniglot")] == [3, 3, 2, 2]
        assert len(dealt.old_queries) == 4 * 200
    of_mnist = [data.class_names for name, data in distinct.nodes.items() if name.startswith("mnist")]
    assert sum(map(len, of_mnist)) == len(set().union(*of_mnist)) == 10


def test_a_node_of_the_few_keeps_twenty_samples_to_train_and_ten_to_validate(folder: Path) -> None:
    for data in case_named("fewshot20").deal(folder, 0).nodes.values():
        training, validation = hold_out(data.inputs, data.labels, VALIDATION_FRACTION)
        assert (len(training), len(validation)) == (20, 10)
        assert np.bincount(data.labels[training]).tolist() == [10, 10]


def test_half_of_the_nodes_in_conflict_call_five_classes_by_another_name(folder: Path) -> None:
    dealt = case_named("conflict").deal(folder, 0)
    assert all(len(data) == 750 and len(dealt.examples[name]) == 50 for name, data in dealt.nodes.items())
    first, last = next(iter(dealt.nodes)), list(dealt.nodes)[-1]
    plain, turned = dealt.truth_of(first), dealt.truth_of(last)
    assert {(a, b) for a, b in zip(plain, turned, strict=True) if a != b} == {
        (str(label), str((label + 1) % 5)) for label in range(5)
    }
    answers = np.eye(10, dtype=np.float32)[[int(name) for name in plain]]
    scores = dealt.scores(answers, [str(label) for label in range(10)])
    changed = np.array([a != b for a, b in zip(plain, turned, strict=True)])
    assert scores[changed] == pytest.approx(0.5) and scores[~changed] == pytest.approx(1.0)


def test_a_turned_node_labels_its_own_samples_by_its_convention(folder: Path) -> None:
    from swarm.cli.bench.collections import idx_collection

    dealt = case_named("conflict").deal(folder, 0)
    found = idx_collection(folder, "fashion-mnist")
    name = list(dealt.nodes)[-1]
    data = dealt.nodes[name]
    where = np.flatnonzero((found.inputs == data.inputs[0]).all(axis=(1, 2)))[0]
    label = int(found.labels[where])
    expected = (label + 1) % 5 if label < 5 else label
    assert data.class_names[data.labels[0]] == str(expected)


def test_a_reduced_deal_keeps_every_class_name_of_its_swarm(folder: Path) -> None:
    dealt = case_named("mnist_classes2").deal(folder, 0)
    small = reduced(dealt, 60, 100, 0)
    assert all(len(data) == 60 for data in small.nodes.values())
    assert small.class_names == dealt.class_names and len(small.old_queries) == 100


def test_missing_data_are_named_with_where_they_come_from(tmp_path: Path) -> None:
    for case in (*SKEW, *DOMAINS):
        with pytest.raises(NotFoundError) as caught:
            case.deal(tmp_path, 0)
        assert str(tmp_path) in caught.value.subject
        assert "--data-dir" in caught.value.remedy and "http" in caught.value.expected


def test_a_case_asks_for_the_collections_that_it_deals_from(folder: Path, tmp_path: Path) -> None:
    for case in (*SKEW, *DOMAINS):
        here = tmp_path / case.name
        here.mkdir()
        for name in case.collections:
            (here / name).symlink_to(folder / name)
        assert case.deal(here, 0).nodes


@settings(max_examples=30, deadline=None)
@given(st.integers(4, 40), st.integers(4, 40), st.integers(0, 50))
def test_resizing_matches_bilinear_interpolation(old: int, new: int, seed: int) -> None:
    import torch

    images = np.random.default_rng(seed).integers(0, 256, (2, old, old), dtype=np.uint8)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(images.astype(np.float32))[:, None], size=new, mode="bilinear", align_corners=False
    )[:, 0].numpy()
    assert np.abs(resized(images, new) - expected).max() <= 0.51


def a_run(case: str, seed: int, accuracy: float, **more: float) -> dict[str, Any]:
    rows = {"swarm": accuracy, "root": 0.8, "swarm_top2": 0.7, "alone:ada": 0.1, **more}
    return {
        "case": case,
        "seed": seed,
        "rules": RULES,
        "settings": {"steps": 10},
        "rows": [{"name": name, "accuracy": value, "bytes_sent": 4_000_000} for name, value in rows.items()],
        "contribution_mb": {"ada": 1.0, "ben": 3.0},
        "gate": {"serves": "root"},
        "seconds": {"train": 60.0},
        "curves": {"fedavg": [[0.5, 0.2], [1.0, 0.4]]},
    }


def test_a_figure_is_the_mean_over_seeds_with_its_spread() -> None:
    runs = [a_run("mnist_classes2", 0, 0.9), a_run("mnist_classes2", 1, 0.8, corrected=0.85)]
    figures = figures_of(runs, figure_rows("skew"))
    assert figures["mnist_classes2_swarm"] == pytest.approx(0.85)
    assert figures["mnist_classes2_swarm_sd"] == pytest.approx(0.0707, abs=1e-4)
    assert figures["mnist_classes2_top2"] == pytest.approx(0.7)
    assert figures["mnist_classes2_mb_per_node"] == 2.0
    assert figures["mnist_classes2_sent_mb_per_node"] == 2.0
    assert "mnist_classes2_corrected" not in figures, "a row that one seed lacks is no mean"
    assert not any("alone:" in name for name in figures)


def test_a_figure_that_a_finished_run_lacks_is_named_with_its_row() -> None:
    runs = [a_run("mnist_classes2", 0, 0.9), a_run("mnist_classes2", 1, 0.8, corrected=0.85)]
    missing = missing_figures(runs, figure_rows("skew"))
    assert missing["mnist_classes2_corrected"] == "no row corrected under seed 0"
    assert missing["mnist_classes2_fedavg"] == "no row fedavg under seed 0, 1"
    assert "mnist_classes2_swarm" not in missing
    assert not any(name.startswith("fashion") for name in missing), "what was not run lacks nothing"


def request_for(folder: Path, data_dir: Path) -> BenchRequest:
    return BenchRequest(
        table="skew",
        data_dir=data_dir,
        seeds=(0,),
        only=("mnist_classes2", "fashion_classes2"),
        out=folder / "skew.json",
        doc=folder / "tables.md",
        quick=True,
        fresh=False,
        full=False,
    )


def test_nothing_runs_where_the_data_of_one_case_are_missing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mnist").symlink_to(folder / "mnist")
    monkeypatch.setattr(bench_runs, "_run", lambda *_: pytest.fail("it ran"))
    with pytest.raises(NotFoundError, match="fashion-mnist"):
        run_bench(request_for(tmp_path, tmp_path / "data"), as_json=True)
    assert capsys.readouterr().out == "" and not (tmp_path / "tables.md").exists()


def test_stdout_gets_one_object_or_leaves_it_to_the_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(case: Case, seed: int, settings: Any, *_: object) -> dict[str, Any]:
        if case.name == failing:
            raise InvalidInputError("this run")
        return {**a_run(case.name, seed, 0.9), "settings": plain(bench_runs.asdict(settings))}

    monkeypatch.setattr(bench_runs, "_run", run)
    failing = "fashion_classes2"
    with pytest.raises(InvalidInputError):
        run_bench(request_for(tmp_path, folder), as_json=True)
    assert capsys.readouterr().out == "" and (tmp_path / "tables.md").exists()
    failing = ""
    run_bench(request_for(tmp_path, folder), as_json=True)
    told = capsys.readouterr()
    assert json.loads(told.out)["schema"] == "swarm.bench-table/1"
    assert "figure mnist_classes2_fedavg is missing: no row fedavg under seed 0" in told.err
    run_bench(request_for(tmp_path, tmp_path / "gone"), as_json=False)  # all of it is kept


def test_where_conventions_conflict_the_swarm_is_asked_by_examples() -> None:
    figures = figures_of([a_run("conflict", 0, 0.5, asker=0.9)], figure_rows("domains"))
    assert figures["conflict_swarm"] == 0.9 and figures["conflict_without_examples"] == 0.5


def test_a_run_that_is_kept_is_not_run_again_and_a_new_one_takes_its_place(tmp_path: Path) -> None:
    path = tmp_path / "results" / "skew.json"
    assert read_runs(path) == []
    runs = with_run([], a_run("mnist_classes2", 1, 0.9))
    runs = with_run(runs, a_run("mnist_classes2", 0, 0.9))
    write_results(path, runs, figure_rows("skew"))
    kept = read_runs(path)
    assert [run["seed"] for run in kept] == [0, 1]
    assert is_done(kept, "mnist_classes2", 1, {"steps": 10})
    assert not is_done(kept, "mnist_classes2", 1, {"steps": 20})
    assert not is_done(kept, "fashion_classes2", 1, {"steps": 10})
    again = with_run(kept, a_run("mnist_classes2", 1, 0.5))
    assert len(again) == 2 and figures_of(again, figure_rows("skew"))["mnist_classes2_swarm"] == 0.7
    found = json.loads(path.read_text())
    assert found["schema"] == "swarm.bench/1" and found["seeds"] == [0, 1]
    assert {"machine", "date", "figures", "runs"} <= set(found) and "torch" in found["machine"]
    assert "commit" not in found, "runs are of several commits"


@pytest.mark.parametrize("rules", [None, RULES - 1, RULES + 1])
def test_a_run_under_other_rules_is_run_again_and_stays_until_then(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rules: int | None
) -> None:
    request = replace(request_for(tmp_path, folder), only=("mnist_classes2",), seeds=(0, 1))
    for seed in request.seeds:
        case = case_named("mnist_classes2")
        made_with = plain(bench_runs.asdict(settings_of(case, seed, quick=True, full=False)))
        old = {**a_run(case.name, seed, 0.5), "settings": made_with, "rules": rules}
        if rules is None:
            del old["rules"]
        write_results(request.out, with_run(read_runs(request.out), old), figure_rows("skew"))

    def run(case: Case, seed: int, settings: Any, *_: object) -> dict[str, Any]:
        if seed == 1:
            raise InvalidInputError("this run")
        return {**a_run(case.name, seed, 0.9), "settings": plain(bench_runs.asdict(settings))}

    monkeypatch.setattr(bench_runs, "_run", run)
    with pytest.raises(InvalidInputError, match="this run"):
        run_bench(request, as_json=True)
    kept = read_runs(request.out)
    assert [(each["seed"], each["rows"][0]["accuracy"]) for each in kept] == [(0, 0.9), (1, 0.5)]
    assert "| MNIST, 2 classes a node † | 0.700" in (tmp_path / "tables.md").read_text()
    monkeypatch.setattr(bench_runs, "_run", lambda case, seed, *_: run(case, 0, *_) | {"seed": seed})
    run_bench(request, as_json=True)
    assert "†" not in (tmp_path / "tables.md").read_text()


def test_a_new_run_counts_as_done_and_says_which_commit_it_began_with(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = iter(["as it began", "as it ended"])

    async def play(*_: object) -> Outcome:
        bench_runs.commit()
        return Outcome()

    monkeypatch.setattr(bench_runs, "commit", lambda: next(told))
    monkeypatch.setattr(bench_runs, "play", play)
    case, request = case_named("mnist_classes2"), request_for(tmp_path, folder)
    made_with = settings_of(case, 0, quick=True, full=False)
    made = bench_runs._run(case, 0, made_with, request, print)
    assert is_done([made], case.name, 0, plain(bench_runs.asdict(made_with)))
    assert (made["rules"], made["commit"]) == (RULES, "as it began")


@pytest.mark.parametrize("flag", ["out", "doc"])
@pytest.mark.parametrize("place", ["file/results.json", "folder", "file/deeper/results.json"])
def test_a_place_that_cannot_be_written_is_noticed_before_the_first_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str, place: str
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(bench_runs, "_run", lambda *_: pytest.fail("it ran"))
    request = request_for(tmp_path, folder)
    named = replace(request, **{flag: tmp_path / place})  # type: ignore[arg-type]
    with pytest.raises((UsageError, InvalidInputError)) as caught:
        run_bench(named, as_json=True)
    assert str(tmp_path / place) in caught.value.subject and caught.value.remedy


def test_the_folder_of_the_results_is_there_before_the_first_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = replace(request_for(tmp_path, folder), out=tmp_path / "new" / "skew.json", doc=None)

    def run(*_: object) -> dict[str, Any]:
        assert list(request.out.parent.iterdir()) == []
        raise InvalidInputError("this run")

    monkeypatch.setattr(bench_runs, "_run", run)
    with pytest.raises(InvalidInputError, match="this run"):
        run_bench(request, as_json=True)


def test_another_tables_damaged_results_are_noticed_before_the_first_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "domains.json").write_text("{")
    monkeypatch.setattr(bench_runs, "_run", lambda *_: pytest.fail("it ran"))
    with pytest.raises(InvalidInputError, match=r"domains\.json"):
        run_bench(request_for(tmp_path, folder), as_json=True)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda run: {}, "case: Field required"),
        (lambda run: "text", "dictionary"),
        (lambda run: run | {"seed": "first"}, "seed"),
        (lambda run: run | {"rows": [{"name": "swarm", "accuracy": 0.5}]}, "rows.0.bytes_sent"),
        (lambda run: run | {"rows": [row for row in run["rows"] if row["name"] != "swarm"]}, "swarm"),
        (lambda run: run | {"contribution_mb": {}}, "contribution_mb"),
        (lambda run: run | {"gate": {}}, "gate.serves"),
    ],
)
def test_a_damaged_run_is_named_by_its_place_with_what_to_do(
    tmp_path: Path, damage: Callable[[dict[str, Any]], object], named: str
) -> None:
    path = tmp_path / "mine.json"
    runs = [a_run("mnist_classes2", 0, 0.9), damage(a_run("mnist_classes2", 1, 0.9))]
    path.write_text(json.dumps({"schema": "swarm.bench/1", "runs": runs}))
    with pytest.raises(InvalidInputError) as caught:
        read_runs(path)
    assert caught.value.subject == f"{path}, runs[1]" and named in caught.value.found
    assert "take this entry out" in caught.value.remedy and "--out" in caught.value.remedy


@pytest.mark.parametrize("name", ["cifar10_jpeg_subset.npz", "usps.npz", "omniglot_small.npz"])
@pytest.mark.parametrize("damage", ["npy", "beginning", "middle", "folder", "shape", "floats", "lengths"])
def test_a_damaged_collection_is_named(folder: Path, tmp_path: Path, name: str, damage: str) -> None:
    labels = "a" if name.startswith("omniglot") else "y"
    path = tmp_path / name
    whole = (folder / name).read_bytes()
    with np.load(folder / name) as archive:
        arrays = dict(archive)
    if damage == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif damage == "folder":
        path.mkdir()
    elif damage == "beginning":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "middle":
        path.write_bytes(whole[:500] + b"?" * 500 + whole[1000:])
    else:
        wrong = {
            "shape": {"x_train": arrays["x_train"][:, :7]},
            "floats": {"x_test": arrays["x_test"] / 255},
            "lengths": {f"{labels}_train": arrays[f"{labels}_train"][:5]},
        }
        np.savez(path, **arrays | wrong[damage])
    with pytest.raises(InvalidInputError) as caught:
        npz_collection(tmp_path, name, labels)
    assert str(path) in caught.value.subject and caught.value.found and caught.value.remedy
    assert "http" in caught.value.expected


@pytest.mark.parametrize("seeds", ["²", "٣", "-1", "0,x", "", ","])
def test_seeds_that_are_no_numbers_are_refused(seeds: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_guarded(build(), ["bench", "skew", "--seeds", seeds, "--data-dir", "nowhere"]) == 2
    assert "write numbers as 0,1,2" in capsys.readouterr().err


def test_a_file_of_another_kind_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text("{}")
    with pytest.raises(InvalidInputError, match="schema"):
        read_runs(path)


def test_the_tables_for_people_hold_every_case_and_the_curve() -> None:
    runs = [a_run("fashion_classes2", seed, 0.9) for seed in (0, 1)]
    result = {"figures": figures_of(runs, figure_rows("skew")), "runs": runs, "machine": "m", "commit": "c"}
    conflict = [a_run("conflict", 0, 0.5, asker=0.9)]
    domains = {
        "figures": figures_of(conflict, figure_rows("domains")),
        "runs": conflict,
        "machine": "m",
        "commit": "c",
    }
    shown = render_tables({"skew": result, "domains": domains})
    assert "0.900 ± 0.000" in shown and "root (seed 1)" in shown
    assert "FedAvg, 2 rounds: Fashion, 2 classes a node" in shown
    assert "asks by its own labelled examples" in shown


def test_each_row_says_which_commits_its_runs_are_of() -> None:
    made = {1: "bbbbbbbbbbbb+", 0: "aaaaaaaaaaaa", 2: "aaaaaaaaaaaa"}
    runs = [a_run("fashion_classes2", seed, 0.9) | {"commit": commit} for seed, commit in made.items()]
    runs.append(a_run("mnist_classes2", 0, 0.9))
    result = {"runs": runs, "machine": "m", "commit": "cccccccccccc"}
    shown = render_tables({"skew": result})
    assert "`swarm bench skew`: m.\n" in shown and "cccccccccccc" not in shown
    assert "| serves | minutes a run | commits |" in shown
    assert "| 1.0 | aaaaaaaaaaaa, bbbbbbbbbbbb+ |" in shown and "| 1.0 | unknown |" in shown
    assert "†" not in shown


def test_rows_with_runs_from_before_the_present_rules_are_marked_in_every_table() -> None:
    old = a_run("fashion_classes2", 0, 0.9)
    del old["rules"]
    runs = [old, a_run("fashion_classes2", 1, 0.9), a_run("mnist_classes2", 0, 0.9)]
    shown = render_tables({"skew": {"runs": runs, "machine": "m"}})
    marked = [line for line in shown.splitlines() if "†" in line and line.startswith("|")]
    assert [line.split(" | ")[0] for line in marked] == [
        "| Fashion, 2 classes a node †",
        "| Fashion, 2 classes a node †",
        "| swarm: Fashion, 2 classes a node †",
    ]
    assert "† Some runs are from before the present rules; `swarm bench skew` runs them again." in shown


def test_each_deal_has_its_curve_once() -> None:
    names = ("fashion_classes2", "fashion_dirichlet01", "fashion_classes2_2mb", "fashion_classes2_exact")
    runs = [a_run(name, 0, 0.9) for name in names]
    result = {"figures": figures_of(runs, figure_rows("skew")), "runs": runs, "machine": "m", "commit": "c"}
    shown = render_tables({"skew": result})
    curves = [line.split(" | ")[0] for line in shown.splitlines() if line.startswith("| FedAvg, 2 rounds")]
    assert curves == [
        f"| FedAvg, 2 rounds: {case_named(name).title}"
        for name in ("fashion_classes2", "fashion_dirichlet01")
    ]


def test_a_quick_try_has_its_own_settings() -> None:
    case = case_named("cifar_classes2")
    whole, quick = (settings_of(case, 3, quick=quick, full=False) for quick in (False, True))
    assert (whole.net, whole.steps, whole.trunk, whole.seed) == ("cnn:16x32", 400, "auto", 3)
    assert quick.steps < whole.steps and quick != whole
    assert set(whole.comparisons) < set(settings_of(case, 0, quick=False, full=True).comparisons)


def test_the_document_is_written_from_a_results_file_of_any_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    write_results(path, [a_run("mnist_classes2", 0, 0.9)], figure_rows("skew"))
    write_tables({"skew": path}, tmp_path, tmp_path / "docs" / "tables.md")
    assert "MNIST, 2 classes a node" in (tmp_path / "docs" / "tables.md").read_text()
