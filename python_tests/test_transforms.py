"""AddSymmetry: what it stores survives PyG's collating, and is what a computation on the batch gives."""

from __future__ import annotations

import copy
import io
import pickle
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import symkern as sk
from symkern import transforms
from symkern.transforms import ATTRIBUTES, AddSymmetry, from_ase, stabilizers_of


class Data:
    """PyG's rules of collating for one graph, without PyG."""

    def __init__(self, **values):
        self.__dict__.update(values)

    def __cat_dim__(self, key):
        return -1 if "index" in key or key == "face" else 0

    def __inc__(self, key, value):
        if "batch" in key and isinstance(value, torch.Tensor):
            return int(value.max()) + 1
        return len(self.pos) if "index" in key or key == "face" else 0


def collate(graphs: list[Data]) -> Data:
    """As torch_geometric.data.collate does it: concatenated, incremented, other values as lists."""
    made = Data()
    for key, first in vars(graphs[0]).items():
        values = [getattr(graph, key) for graph in graphs]
        if isinstance(first, torch.Tensor):
            offset, parts = 0, []
            for graph, value in zip(graphs, values, strict=True):
                parts.append((value if value.dim() else value[None]) + offset if value.dtype != torch.bool else value)
                offset += graph.__inc__(key, value)
            setattr(made, key, torch.cat(parts, dim=graphs[0].__cat_dim__(key)))
        else:
            setattr(made, key, values)
    sizes = torch.tensor([len(graph.pos) for graph in graphs])
    made.batch = torch.repeat_interleave(torch.arange(len(graphs)), sizes)
    made.ptr = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    return made


def ring(n: int, radius: float = 1.4, z: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    angle = torch.arange(n, dtype=torch.float64) * (2 * torch.pi / n)
    return torch.stack([radius * angle.cos(), radius * angle.sin(), 0 * angle], 1), torch.full((n,), z)


def molecules() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Water, a ring, a line, an atom, a chiral heap, and nothing at all."""
    water = torch.tensor([[0.0, 0, 0], [0.76, 0, 0.59], [-0.76, 0, 0.59]], dtype=torch.float64), torch.tensor([8, 1, 1])
    line = torch.tensor([[0.0, 0, 0], [0, 0, 1.2], [0, 0, -1.2]], dtype=torch.float64), torch.tensor([6, 8, 8])
    generator = torch.Generator().manual_seed(0)
    heap = 3 * torch.rand(5, 3, generator=generator, dtype=torch.float64), torch.tensor([1, 6, 7, 8, 9])
    atom = torch.ones(1, 3, dtype=torch.float64), torch.tensor([18])
    return [water, ring(6), line, atom, heap, ring(5)]


def same(a: sk.Stabilizers, b: sk.Stabilizers) -> None:
    for field in fields(a):
        x, y = getattr(a, field.name), getattr(b, field.name)
        equal = torch.equal(x, y) and x.dtype == y.dtype if isinstance(x, torch.Tensor) else x == y
        assert equal, field.name


def graphs(kind=Data, **settings):
    add = AddSymmetry(**settings)
    return [add(kind(pos=pos, z=z)) for pos, z in molecules()]


def expected(**settings) -> sk.Stabilizers:
    pos, z = (torch.cat(parts) for parts in zip(*molecules(), strict=True))
    ptr = torch.tensor([0, *np.cumsum([len(p) for p, _ in molecules()]).tolist()])
    return sk.stabilizers(pos, z, ptr=ptr, **settings)


# ---- collating ----


@pytest.mark.parametrize("settings", [{}, {"policy": "raw", "tolerance": 0.05}, {"samples": 3}])
def test_a_collated_batch_has_the_symmetry_of_the_batch(settings):
    same(stabilizers_of(collate(graphs(**settings))), expected(**settings))


def test_one_molecule():
    for graph, (pos, z) in zip(graphs(), molecules(), strict=True):
        same(stabilizers_of(graph), sk.stabilizers(pos, z))


def test_the_order_of_the_batch_is_that_of_its_molecules():
    shuffled = [graphs()[k] for k in (4, 0, 5, 1)]
    found = stabilizers_of(collate(shuffled))
    assert found.labels == ["C1", "C2v", "D5h", "D6h"]
    for g in range(found.num_operations):  # permutations lie in the atoms of their molecule
        b = int(found.op_batch[g])
        image = found.permutations[found.perm_ptr[g] : found.perm_ptr[g + 1]]
        assert image.sort().values.tolist() == list(range(int(found.ptr[b]), int(found.ptr[b + 1])))


def test_an_empty_molecule_between_others():
    empty = torch.zeros(0, 3, dtype=torch.float64), torch.zeros(0, dtype=torch.int64)
    mixed = [ring(6), empty, ring(5)]
    found = stabilizers_of(collate([AddSymmetry()(Data(pos=pos, z=z)) for pos, z in mixed]))
    assert found.labels == ["D6h", "Kh", "D5h"]
    assert found.ptr.tolist() == [0, 6, 6, 11]


def test_with_pyg():
    pytest.importorskip("torch_geometric")
    from torch_geometric import data as pyg
    from torch_geometric.loader import DataLoader

    made = graphs(pyg.Data)
    (batch,) = DataLoader(made, batch_size=len(made))
    same(stabilizers_of(batch), expected())
    for k, (pos, z) in enumerate(molecules()):  # and back
        same(stabilizers_of(batch.get_example(k)), sk.stabilizers(pos, z))
    assert AddSymmetry()(batch) is batch
    whole = AddSymmetry(0.02)(pyg.Batch.from_data_list([pyg.Data(pos=pos, z=z) for pos, z in molecules()]))
    same(stabilizers_of(whole), expected(tolerance=0.02))


def test_with_pyg_datasets_and_files(tmp_path):
    pytest.importorskip("torch_geometric")
    from torch_geometric import data as pyg

    class Rings(pyg.InMemoryDataset):
        processed_file_names = "rings.pt"

        def __init__(self, root):
            super().__init__(root, pre_transform=AddSymmetry())
            self.load(self.processed_paths[0])

        def process(self):
            self.save([self.pre_transform(pyg.Data(pos=pos, z=z)) for pos, z in molecules()], self.processed_paths[0])

    held = Rings(str(tmp_path))
    for k, (pos, z) in enumerate(molecules()):
        same(stabilizers_of(held[k]), sk.stabilizers(pos, z))


# ---- once ----


def test_computed_once(monkeypatch):
    (graph, *_), add = graphs(), AddSymmetry()
    calls = []
    real = transforms.stabilizers
    monkeypatch.setattr(transforms, "stabilizers", lambda *a, **k: calls.append(1) or real(*a, **k))
    assert add(graph) is graph
    stabilizers_of(graph)
    stabilizers_of(collate([graph, graph]))
    assert not calls
    other = AddSymmetry(0.02)
    calls.clear()
    assert stabilizers_of(other(graph)).tolerance == 0.02
    assert len(calls) == 1
    moved = copy.copy(graph)
    moved.pos = graph.pos * 1.1
    assert torch.equal(stabilizers_of(add(moved)).positions, moved.pos)
    assert len(calls) == 2


def test_the_input_stays_as_it_is():
    pos, z = ring(4)
    graph = Data(pos=pos, z=z)
    AddSymmetry()(graph)
    assert set(vars(graph)) == {"pos", "z"}


def test_changed_atoms_are_noticed():
    graph = graphs()[1]
    graph.pos += 0.1  # in place: the stored positions are a copy
    with pytest.raises(ValueError, match=r"data\.pos .*changed since.*check=False"):
        stabilizers_of(graph)
    kept = stabilizers_of(graph, check=False)
    assert torch.equal(kept.positions, ring(6)[0])
    graph = graphs()[1]
    graph.z = graph.z + 1
    with pytest.raises(ValueError, match=r"data\.z "):
        stabilizers_of(graph)


def test_no_gradient_is_kept():
    pos, z = ring(6)
    made = AddSymmetry()(Data(pos=pos.requires_grad_(), z=z))
    assert not any(getattr(made, name).requires_grad for name in ATTRIBUTES if name != "sym_settings")
    assert not stabilizers_of(made).positions.requires_grad


def test_settings_must_agree():
    pos, z = ring(6)
    mixed = [AddSymmetry(t)(Data(pos=pos, z=z)) for t in (0.01, 0.02)]
    with pytest.raises(ValueError, match=r"same settings, got .*0\.01.* and .*0\.02"):
        stabilizers_of(collate(mixed))


def test_what_is_refused():
    pos, z = ring(6)
    with pytest.raises(ValueError, match=r"no stored symmetry: apply symkern\.transforms\.AddSymmetry first"):
        stabilizers_of(Data(pos=pos, z=z))
    for missing in ("pos", "z"):
        values = {"pos": pos, "z": z, missing: None}
        with pytest.raises(TypeError, match=f"{missing} = None"):
            AddSymmetry()(Data(**values))
    with pytest.raises(TypeError, match="got a SimpleNamespace with z = a list"):
        AddSymmetry()(SimpleNamespace(pos=pos, z=z.tolist()))
    batch = sk.data.Batch(z, pos, torch.zeros(6, dtype=torch.int64), torch.tensor([0, 6]))
    for call in (AddSymmetry(), stabilizers_of):
        with pytest.raises(TypeError, match=r"symkern\.stabilizers\(b\.pos, b\.z, ptr=b\.ptr\)"):
            call(batch)
    assert sk.stabilizers(batch.pos, batch.z, ptr=batch.ptr).labels == ["D6h"]


def test_bad_settings_are_refused_at_once():
    for bad in ({"tolerance": -1.0}, {"policy": "best"}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            AddSymmetry(**bad)


def test_it_can_be_printed_and_pickled():
    assert repr(AddSymmetry()) == "AddSymmetry(tolerance=0.01)"
    assert repr(AddSymmetry(0.1, "raw", 4)) == "AddSymmetry(tolerance=0.1, policy='raw', samples=4)"
    pos, z = ring(3)
    assert stabilizers_of(pickle.loads(pickle.dumps(AddSymmetry()))(Data(pos=pos, z=z))).labels == ["D3h"]


# ---- ASE ----


def test_from_ase():
    ase = pytest.importorskip("ase")
    build = pytest.importorskip("ase.build")
    frames = [build.molecule(name) for name in ("C6H6", "NH3", "CO2")]
    found = from_ase(frames)
    assert found.labels == ["D6h", "C3v", "Dinfh"]
    assert found.positions.dtype == torch.float64
    assert from_ase(frames[1], tolerance=0.02, dtype=torch.float32).positions.dtype == torch.float32
    assert from_ase([]).num_structures == 0
    assert from_ase(ase.Atoms()).labels == ["Kh"]
    with pytest.raises(TypeError, match="got a str at 1"):
        from_ase([frames[0], "C6H6"])


def test_atoms_are_annotated_and_survive_a_file():
    build = pytest.importorskip("ase.build")
    aseio = pytest.importorskip("ase.io")
    atoms = build.molecule("C6H6")
    made = AddSymmetry(0.02)(atoms)
    assert "point_group" not in atoms.info
    text = io.StringIO()
    aseio.write(text, made, format="extxyz")
    text.seek(0)
    back = aseio.read(text, format="extxyz")
    assert back.info["point_group"] == "D6h"
    assert back.info["symmetry_order"] == 24
    assert back.info["symmetry_tolerance"] == 0.02
    assert back.arrays["orbits"].tolist() == [0] * 6 + [6] * 6
    with pytest.raises(TypeError, match="from_ase"):
        stabilizers_of(made)
