"""Batches: their graphs are those that a search would find; the cache."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from example_data import (
    LAZY,
    Planted,
    assert_same_graph,
    crystals,
    labelled,
    molecules,
    searched,
)

from symkern.data import Dataset, Loader, graphs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("chunk", [1, 7, 10**6])
@pytest.mark.parametrize("frames", [molecules, crystals])
def test_graphs_are_those_of_neighbor_list(monkeypatch, frames, chunk, dtype):
    monkeypatch.setattr(graphs, "_CHUNK", chunk)
    data = labelled(frames())
    seen = []
    loader = data.loader(4.0, dtype=dtype, progress=lambda done, count: seen.append((done, count)))
    assert seen[-1] == (len(data), len(data))
    assert chunk < 1000 or len(seen) == 1
    assert chunk > 1 or len(seen) == len(data)
    for index in (range(len(data)), [3], [1], [5, 0, 4, 4, 2], torch.tensor([6, 3, 1]), torch.zeros(0).long(), []):
        batch = loader.collate(index)
        assert batch.pos.dtype == dtype
        assert all(name in batch.nb.__dict__ for name in ("batch", "reverse", "_by_sender"))
        assert_same_graph(batch.nb, searched(batch, 4.0))


def test_several_images_of_a_pair_need_their_own_order():
    """The shortcut that sender_order is reverse does not hold there; the test above must contain such a case."""
    loader = labelled(crystals()).loader(4.0)
    assert len(loader._graphs.relative) == 3
    assert len(labelled(molecules()).loader(4.0)._graphs.relative) == 2
    nb = loader.collate([0]).nb
    assert not torch.equal(nb.reverse, nb.sender_order)


def test_what_a_batch_holds():
    data = labelled(crystals())
    batch = data.loader(3.0).collate(torch.tensor([5, 0, 5]))
    part = data.subset([5, 0, 5])
    assert (len(data.loader(3.0)), batch.num_structures, batch.num_atoms) == (len(data), 3, 5)
    assert torch.equal(batch.z, part.z)
    assert torch.equal(batch.pos, part.pos.float())
    assert torch.equal(batch.ptr, part.ptr)
    assert torch.equal(batch.cell, part.cell.float())
    assert torch.equal(batch.pbc, part.pbc)
    assert batch.batch.tolist() == [0, 0, 1, 2, 2]
    assert batch.index.tolist() == [5, 0, 5]
    assert set(batch.targets) == set(data.targets)
    for name, wanted in part.targets.items():
        assert torch.equal(batch.targets[name], wanted.float() if name == "forces" else wanted), name
    assert batch.targets["energy"].dtype == torch.float64
    assert batch.targets["forces"].dtype == torch.float32
    assert "3 structures, 5 atoms" in repr(batch)


def test_batches_of_one_atom_of_none_and_without_graph():
    data = labelled(molecules())
    loader = data.loader(None, targets=["forces"])
    batch = loader.collate([1])
    assert batch.nb is None
    assert batch.cell is None
    assert list(batch.targets) == ["forces"]
    for source in (loader, data.loader(5.0), labelled(crystals()).loader(5.0), data.subset([]).loader(5.0)):
        empty = source.collate([])
        assert (empty.num_structures, empty.num_atoms, empty.ptr.tolist()) == (0, 0, [0])
        assert all(len(value) == 0 for value in empty.targets.values())


def test_the_batch_does_not_share_memory_with_the_data():
    data = labelled(molecules())
    loader = data.loader(3.0, dtype=torch.float64)
    index = torch.arange(len(data))
    batch = loader.collate(index)
    index[0] = 5
    batch.pos.zero_()
    assert batch.index[0] == 0
    assert torch.equal(loader.collate([2]).pos, data.subset([2]).pos)


def test_batches_move_with_their_graph():
    batch = labelled(crystals()).loader(3.0).collate([0, 1])
    moved = batch.to("meta")
    tensors = [moved.z, moved.pos, moved.batch, moved.ptr, moved.cell, moved.pbc, moved.index]
    graph = moved.nb
    tensors += [graph.edge_index, graph.row_ptr, graph.ptr, graph.shifts, *(getattr(graph, name) for name in LAZY)]
    assert all(x.device.type == "meta" for x in [*tensors, *moved.targets.values()])
    assert graph.ptr is moved.ptr  # shared tensors move once
    assert_same_graph(batch.to("cpu").nb, batch.nb)
    assert labelled(molecules()).loader(None).collate([0]).to("meta").nb is None


@pytest.mark.cuda
def test_pinned_batches():
    batch = labelled(crystals()).loader(3.0).collate([0, 1])
    pinned = batch.pin_memory()
    assert pinned.pos.is_pinned()
    assert pinned.nb.edge_index.is_pinned()
    moved = pinned.to("cuda", non_blocking=True)
    assert_same_graph(moved.nb.to("cpu"), batch.nb)


def test_torch_dataloader_takes_it():
    loader = labelled(molecules()).loader(3.0)
    torch_loader = torch.utils.data.DataLoader(range(len(loader)), batch_size=3, collate_fn=loader.collate)
    assert [batch.index.tolist() for batch in torch_loader] == [[0, 1, 2], [3, 4, 5], [6, 7]]
    copy = pickle.loads(pickle.dumps(loader))  # as worker processes get it
    assert_same_graph(copy.collate([2]).nb, loader.collate([2]).nb)


def test_bad_arguments():
    data = labelled(molecules())
    loader = data.loader(3.0)
    for index in ([8], [-1], [0.5], [[0]], [True]):
        with pytest.raises(ValueError, match="index must"):
            loader.collate(index)
    for arguments, reason in (
        ({"cutoff": 0.0}, "cutoff must be positive and finite, or None"),
        ({"cutoff": float("nan")}, "cutoff must be positive"),
        (
            {"cutoff": 1.0, "dtype": torch.float16},
            r"dtype must be torch\.float32 or torch\.float64, got torch\.float16",
        ),
        ({"cutoff": 1.0, "targets": ["gap"]}, "no target 'gap'; found: energy, stress, dipole, label, forces, q"),
        ({"cutoff": 1.0, "cache": __file__}, "cache must be a folder, got the file"),
    ):
        with pytest.raises(ValueError, match=reason):
            data.loader(**arguments)
    with pytest.raises(TypeError, match="targets must be a sequence"):
        data.loader(None, targets="energy")
    gaps = torch.tensor([1.0, math.nan, math.inf, 1, 1, 1, 1, 1])
    data = Dataset(data.z, data.pos, data.ptr, per_structure={"gap": gaps})
    with pytest.raises(ValueError, match=r"target 'gap' .* not in 2 of 8 structures, first in structure 1"):
        data.loader(None)
    assert data.loader(None, targets=[]).collate([1]).targets == {}


def test_progress_on_stderr(capsys):
    labelled(molecules()).loader(3.0, progress=True)
    assert capsys.readouterr().err.endswith("graphs: 8 of 8 structures\n")


# cache


class Counted:
    """Counts how often the graphs are searched."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls, build = 0, graphs.build

        def counting(*arguments, **more):
            self.calls += 1
            return build(*arguments, **more)

        monkeypatch.setattr(graphs, "build", counting)


@pytest.mark.parametrize("frames", [molecules, crystals])
def test_cache_is_used_and_follows_what_it_depends_on(tmp_path, monkeypatch, frames):
    searches = Counted(monkeypatch)
    data = labelled(frames())
    folder = tmp_path / "deep" / "graphs"
    expected = data.loader(3.0, cache=folder).collate(range(len(data)))
    again = data.loader(3.0, cache=str(folder)).collate(range(len(data)))
    assert searches.calls == 1
    assert_same_graph(again.nb, expected.nb)
    assert [file.suffix for file in folder.iterdir()] == [".pt"]
    moved = Dataset(data.z, data.pos + 1e-6, data.ptr, data.cell, data.pbc)
    for k, make in enumerate(
        (
            lambda: data.loader(3.1, cache=folder),
            lambda: data.loader(3.0, cache=folder, dtype=torch.float64),
            lambda: moved.loader(3.0, cache=folder),
            lambda: data.subset(range(len(data) - 1)).loader(3.0, cache=folder),
        )
    ):
        make()
        assert searches.calls == k + 2
    data.loader(3.0, cache=folder, targets=[])  # labels do not matter
    assert searches.calls == 5


def test_damaged_cache_is_built_anew(tmp_path, monkeypatch):
    searches = Counted(monkeypatch)
    data = labelled(crystals())
    expected = data.loader(3.0, cache=tmp_path).collate(range(len(data)))
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    stored = torch.load(path, weights_only=True)
    stored["relative"][0, 0] += 1
    flipped = tmp_path / "flipped"
    torch.save(stored, flipped)
    planted = tmp_path / "planted"
    trap = tmp_path / "trap"
    torch.save(Planted(trap), planted)
    contents = [b"", whole[: len(whole) // 2], b"hello", flipped.read_bytes(), planted.read_bytes()]
    for k, content in enumerate(contents):
        path.write_bytes(content)
        with pytest.warns(UserWarning, match=r"graphs-.*\.pt: damaged, built anew"):
            loader = data.loader(3.0, cache=tmp_path)
        assert searches.calls == k + 2
        assert_same_graph(loader.collate(range(len(data))).nb, expected.nb)
        assert data.loader(3.0, cache=tmp_path)._graphs is not None
        assert searches.calls == k + 2
    assert not trap.exists()


def test_names_of_the_package():
    import symkern.data

    assert symkern.data.Loader is Loader
    assert set(dir(symkern.data)) == set(symkern.data.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        symkern.data.nothing  # noqa: B018
