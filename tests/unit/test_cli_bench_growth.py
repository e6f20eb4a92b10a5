"""The growth benchmarks, run in small on digits: their results, figures, sections and plots."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from benchmarks.results_file import RESULTS
from swarm.cli.app import build
from swarm.cli.bench.growth import alma, alma_report, hard_moe, hard_moe_report
from swarm.cli.bench.growth.alma_claims import claims_of, points_of
from swarm.cli.bench.growth.document import HEAD, begin, end, with_section
from swarm.cli.bench.growth.evidence import Difference, difference, verdict
from swarm.cli.bench.growth.jobs import Job, done, read_growth_runs, write_growth_results
from swarm.cli.output import run_guarded
from swarm.domain.errors import InvalidInputError, UsageError


def write_idx(path: Path, array: np.ndarray) -> None:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes(), 1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scikit-learn's digits, blown up to 28 x 28, in the place of both collections."""
    root, data = tmp_path_factory.mktemp("collections"), load_digits()
    images = np.pad(np.kron(data.images, np.ones((1, 3, 3))), ((0, 0), (2, 2), (2, 2))) * 15
    for name in ("mnist", "fashion-mnist"):
        for split, rows in (("train", slice(0, 1500)), ("t10k", slice(1500, None))):
            write_idx(root / name / f"{split}-images-idx3-ubyte.gz", images[rows])
            write_idx(root / name / f"{split}-labels-idx1-ubyte.gz", data.target[rows])
    return root


def bench(*arguments: str) -> int:
    return run_guarded(build(), ["bench", *arguments])


@pytest.mark.slow
def test_alma_in_small_writes_results_figures_section_and_plot(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, doc = tmp_path / "alma.json", tmp_path / "growth.md"
    flags = ["alma", "--quick", "--data-dir", str(folder), "--out", str(out), "--doc", str(doc), "--json"]
    assert bench(*flags, "--seeds", "0,1", "--only", "sm,gmoe,root") == 0
    found = json.loads(out.read_text())
    assert {"schema", "machine", "date", "command", "commits", "seeds", "figures", "runs"} <= set(found)
    assert found["seeds"] == [0, 1] and found["command"].startswith("swarm bench alma --seeds 0,1")
    assert str(folder) not in out.read_text() + doc.read_text()
    figures = json.loads(capfd.readouterr().out)["figures"]
    assert figures == found["figures"]
    assert {"cer_w1", "cer_w1_sd", "cer_w3", "cer_w6", "mnist-sm4-w3-replay_cer"} <= set(figures)
    assert 0 <= figures["split_loss_change_max"] < 1e-6
    for run in found["runs"]:
        assert set(alma.NEEDED) <= set(run) and len(run["errors"]) == 6
        assert run["cer"] == pytest.approx(sum(run["errors"]), abs=1e-3)
        waited = run["errors"][: run["wait"] - 1]
        assert waited == [0.9] * len(waited)
    assert begin("alma") in doc.read_text() and "| SM-4 | 1 |" in doc.read_text()
    assert out.with_suffix(".svg").read_bytes().startswith(b"<?xml")
    assert bench(*flags, "--seeds", "0,1", "--only", "sm,gmoe,root") == 0
    assert json.loads(out.read_text())["runs"] == found["runs"], "what is there is not run again"


@pytest.mark.slow
def test_hard_moe_in_small_writes_results_figures_section_and_plot(folder: Path, tmp_path: Path) -> None:
    out, doc = tmp_path / "hard-moe.json", tmp_path / "growth.md"
    flags = ["--quick", "--data-dir", str(folder), "--out", str(out), "--doc", str(doc)]
    assert bench("hard-moe", *flags, "--seeds", "0") == 0
    found = json.loads(out.read_text())
    assert {run["regime"] for run in found["runs"]} == {"underfit", "overfit"}
    for run in found["runs"]:
        names = [(row["name"], row["k"], row["budget"]) for row in run["rows"]]
        assert len(set(names)) == len(names)
        assert all(0 <= row["accuracy"] <= 1 for row in run["rows"])
        macs = run["wide_width"] * (784 + 10)
        assert macs == pytest.approx(run["mixture_macs"], abs=(784 + 10) / 2)
    expected = {"moe2_minus_ensemble2_underfit", "moe3_minus_wide_underfit", "moe3_minus_single_overfit"}
    assert expected | {f"{name}_total" for name in expected} <= set(found["figures"])
    assert "### Underfitting" in doc.read_text()
    assert out.with_suffix(".svg").exists()


def test_the_default_scales_give_the_figures_that_they_promise() -> None:
    jobs = alma.alma_jobs(alma.DEFAULT, data_dir=Path("data"), seeds=(0, 1), only=())
    cases = {job.case for job in jobs}
    assert {f"mnist-sm4-w{wait}" for wait in (1, 5, 50)} <= cases
    assert {job.settings["learner"] for job in jobs} == set(alma.TITLES)
    assert [job.seed for job in jobs] != sorted(job.seed for job in jobs), "a collection is done first"
    for regime, k in (("underfit", 8), ("underfit", 24), ("overfit", 16)):
        assert k in hard_moe.DEFAULT[regime].experts


@pytest.mark.parametrize("name", ["alma", "hard-moe"])
def test_an_unknown_case_and_missing_data_are_refused(name: str, tmp_path: Path) -> None:
    out = str(tmp_path / "out.json")
    assert bench(name, "--quick", "--out", out, "--only", "nonsense", "--data-dir", str(tmp_path)) == 2
    assert bench(name, "--quick", "--out", out, "--data-dir", str(tmp_path / "none")) == 2
    with pytest.raises(UsageError, match="nonsense"):
        alma.alma_jobs(alma.QUICK, data_dir=tmp_path, seeds=(0,), only=("nonsense",))


@pytest.mark.parametrize("name", ["alma", "hard-moe"])
def test_a_folder_that_is_named_and_not_there_is_an_error_though_all_runs_are_in(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"{name}.json"
    out.write_bytes((RESULTS / out.name).read_bytes())
    monkeypatch.chdir(tmp_path)
    assert bench(name, "--out", str(out), "--data-dir", str(tmp_path / "nope")) == 2
    shown = capsys.readouterr()
    assert "nope" in shown.err and "--data-dir DIR" in shown.err and not shown.out
    assert bench(name, "--out", str(out)) == 0, "nothing is to be run, so nothing is to be read"


def test_jobs_run_in_processes_give_what_they_give_here() -> None:
    jobs = [Job(case="a", seed=seed, work=_squared, settings={"base": 3}, data_dir="data") for seed in (0, 1)]
    here, there = (sorted(done(jobs, workers), key=lambda run: run["seed"]) for workers in (1, 2))
    assert [run["found"] for run in here] == [run["found"] for run in there] == [9, 10]


def _squared(*, data_dir: Path, seed: int, base: int) -> dict[str, Any]:
    return {"found": base**2 + seed, "data": data_dir.name}


def test_a_difference_counts_where_the_seeds_agree() -> None:
    gap = difference({0: 3.0, 1: 3.2, 2: 3.1}, {0: 1.0, 1: 1.0, 2: 1.0, 3: 9.0})
    assert gap is not None and (gap.mean, gap.seeds, gap.sign) == (pytest.approx(2.1), 3, 1)
    assert Difference(mean=2.0, sd=2.0, seeds=3).sign == 0
    assert Difference(mean=-2.0, sd=1.0, seeds=3).sign == -1
    assert Difference(mean=5.0, sd=0.0, seeds=1).sign == 0, "one seed decides nothing"
    assert difference({0: 1.0}, {1: 1.0}) is None
    assert [verdict(signs) for signs in ([1, 0], [-1, 0], [0], [1, -1])] == [
        "reproduced", "refuted", "undecided", "mixed",
    ]  # fmt: skip


def run_of(learner: str, width: int, wait: int, seed: int, cer: float, flops: float) -> dict[str, Any]:
    replay = learner.endswith("+")
    name = learner.rstrip("+")
    return {
        "case": alma.case_name("mnist", name, width, wait, replay=replay), "seed": seed, "settings": {},
        "collection": "mnist", "learner": name, "width": width, "wait": wait, "replay": replay, "cer": cer,
        "flops_total": flops, "memory_sum": flops, "final_error": 0.1, "parameters": 10, "commit": "c",
    }  # fmt: skip


def claimed(table: dict[tuple[str, int, int], tuple[float, float]]) -> dict[str, str]:
    runs = [
        run_of(*case, seed, cer + 0.01 * seed * (seed - 1), flops)
        for case, (cer, flops) in table.items()
        for seed in range(3)
    ]
    return {claim.text: claim.verdict for claim in claims_of(points_of(runs, "mnist"))}


def test_claims_are_read_off_the_points() -> None:
    found = claimed(
        {
            ("sm", 4, 1): (20.0, 10), ("sm", 4, 5): (15.0, 10), ("sm", 4, 50): (44.0, 10),
            ("sm", 64, 1): (9.0, 100), ("sm", 64, 5): (12.0, 100), ("ens", 64, 1): (7.0, 500),
            ("sm+", 64, 5): (8.0, 400), ("gmoe", 4, 1): (10.0, 90), ("gens", 4, 1): (18.0, 90),
            ("root", 0, 1): (3.0, 250),
        }
    )  # fmt: skip
    told = {text.split(" (")[0]: verdict for text, verdict in found.items()}
    assert told["An intermediate waiting time is best for small nets"] == "reproduced"
    assert told["Larger nets need not wait"] == "reproduced"
    assert told["Ens is the best trade-off for larger nets"] == "reproduced"
    assert told["Replay gives no better CER per compute"] == "refuted"
    assert told["Growing does not beat the best fixed net for no more FLOPs"] == "mixed"
    assert "UMix is better than Ens for small nets" not in told, "there are no such runs"


def test_a_mixture_turns_where_it_stays_above_its_rival() -> None:
    levels = {2: 0.70, 8: 0.80, 16: 0.84, 24: 0.86}
    runs = []
    for seed in range(3):
        rows = [{"name": "wide", "k": 1, "budget": "each", "accuracy": 0.82 + 0.001 * seed}]
        rows += [
            {"name": "mixture", "k": k, "budget": "each", "accuracy": level + 0.002 * seed}
            for k, level in levels.items()
        ]
        rows += [{"name": "wide", "k": k, "budget": "total", "accuracy": 0.9} for k in levels]
        runs.append({"regime": "underfit", "seed": seed, "rows": rows, "settings": {"experts": list(levels)}})
    assert hard_moe_report.turning_point(runs, "underfit", "wide", "each") == "above from k = 16 on"
    assert hard_moe_report.turning_point(runs, "underfit", "wide", "total") == "below at every k"
    figures = hard_moe_report.hard_moe_figures(runs)
    assert figures["moe24_minus_wide_underfit"] == pytest.approx(0.041)
    assert figures["moe24_minus_wide_underfit_total"] == pytest.approx(-0.038)


def test_a_section_is_written_between_its_markers_and_nothing_else_changes() -> None:
    first = with_section(HEAD, "alma", "one")
    both = with_section(first, "hard-moe", "two") + "\nafter\n"
    again = with_section(both, "alma", "three")
    assert again == both.replace("one", "three")
    with pytest.raises(InvalidInputError, match="one marker"):
        with_section(f"{begin('alma')} text", "alma", "new")
    assert end("alma") in first


def test_results_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "alma.json"
    assert read_growth_runs(path, alma.NEEDED) == []
    for content in (
        "not json",
        '{"schema": "other", "runs": []}',
        '{"schema": "swarm.bench/1", "runs": [{}]}',
    ):
        path.write_text(content)
        with pytest.raises(InvalidInputError, match="growth benchmark"):
            read_growth_runs(path, alma.NEEDED)
    with pytest.raises(InvalidInputError, match="finite number"):
        write_growth_results(path, [], {"cer_w1": float("nan")}, "swarm bench alma")


def test_figures_name_the_smallest_net_of_mnist() -> None:
    runs = [run_of("sm", 4, 5, seed, 10.0 + seed, 1.0) for seed in (0, 1)]
    runs += [run_of("sm", 64, 5, 0, 1.0, 1.0) | {"split_loss_change": 2e-8}]
    figures = alma_report.alma_figures(runs)
    assert figures["cer_w5"] == pytest.approx(10.5) and figures["cer_w5_sd"] == pytest.approx(0.5**0.5)
    assert figures["split_loss_change_max"] == 2e-8
