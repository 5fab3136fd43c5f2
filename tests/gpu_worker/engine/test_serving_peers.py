"""Peers of the serving benchmark: what they are given, how they are asked, what is said of one that does not run."""

from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file

from gpu_worker.benchmarks import serving_peers
from gpu_worker.benchmarks.gguf_adapter import write_adapter
from gpu_worker.benchmarks.peers.rounds import _figures
from gpu_worker.benchmarks.serving_load import Request, rounds_of
from gpu_worker.benchmarks.serving_peers import Peer, measure_peers
from gpu_worker.benchmarks.serving_workload import Workload
from gpu_worker.engine.model_shape import read_model_shape
from gpu_worker.exporter.gguf_file import permute


def test_an_adapter_in_llamacpps_order(model_dir: Path, adapter_dirs: dict[str, Path], tmp_path: Path) -> None:
    write_adapter(adapter_dirs["north"], model_dir, tmp_path / "adapter.gguf")
    written = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "adapter.gguf").tensors}
    ours = load_file(adapter_dirs["north"] / "adapter_model.safetensors")
    assert len(written) == len(ours)
    layer = "base_model.model.model.layers.1.self_attn.q_proj.lora_"
    assert np.array_equal(written["blk.1.attn_q.weight.lora_a"], ours[layer + "A.weight"])
    heads = read_model_shape(model_dir).heads
    assert np.array_equal(written["blk.1.attn_q.weight.lora_b"], permute(ours[layer + "B.weight"], heads))


def test_a_peer_is_warmed_and_asked_in_rounds() -> None:
    asked: list[tuple[int, set[int], int]] = []

    def answer(requests, in_flight):
        asked.append((len(requests), {adapter for adapter, _ in requests}, in_flight))
        return [[1]] * len(requests), [2.0] * len(requests), [0.5] * len(requests)

    mixed = [Request(f"a{number % 3}", [{"role": "user", "content": str(number)}], 8) for number in range(9)]
    rounds = {name: [(int(one.model[1]), [7]) for one in found] for name, found in rounds_of(mixed).items()}
    order = {"rounds": rounds, "warm_up": [[5]], "adapter_count": 3, "in_flight": 2, "crowd": 4}
    figures = _figures(order, answer, mixes=True)
    assert figures["latency_s"] == 2.0
    assert figures["first_token_s"] == 0.5
    assert figures["mixed_p95_s"] == 2.0
    counts = {name: len(found) for name, found in figures["answers"].items()}
    assert counts == {"alone": 4, "first": 4, "one": 9, "one, crowd": 9, "mixed": 9, "mixed, crowd": 9}
    one, all_three = {0}, {0, 1, 2}
    assert asked[:3] == [(1, {0}, 2), (1, {1}, 2), (1, {2}, 2)]
    assert asked[3:] == [(4, one, 1), (4, one, 1), (9, one, 2), (9, one, 4), (9, all_three, 2), (9, all_three, 4)]
    assert _figures(order, answer, mixes=False)["mixed_per_s"] is None


def test_what_does_not_run_is_named(
    model_dir: Path, adapter_dirs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = Peer("Absent, too", "no_such_child.py", (f"{tmp_path}/no_such_wheel.whl",))
    monkeypatch.setattr(serving_peers, "PEERS", {"broken": Peer("Broken, fast", "no_such_child.py"), "absent": absent})
    conversation = [{"role": "user", "content": "hello"}]
    workload = Workload(model_dir, [conversation], adapter_dirs, {}, 8, 5.0)
    rounds = rounds_of([Request("north", conversation, 8)])
    found, remarks = measure_peers(
        ["broken", "absent"],
        workload,
        rounds,
        tmp_path,
        environments=tmp_path,
        settings={},
        environment={},
        progress=print,
    )
    assert found == {}
    assert "Broken is not in the table: it broke off (" in remarks[0]
    assert "Absent is not in the table: " in remarks[1]
    assert "no_such_wheel" in remarks[1]


def test_what_is_made_for_graphics_cards_is_not_installed() -> None:
    plan = {"install": [{"metadata": {"name": name}} for name in ("torch", "nvidia-cublas-cu12", "triton", "numpy")]}
    assert serving_peers.for_other_hardware(plan) == ["nvidia-cublas-cu12"]
    assert serving_peers.for_other_hardware({"install": plan["install"][2:]}) == []


def test_every_peer_has_its_program() -> None:
    assert all((serving_peers.CHILDREN / peer.child).is_file() for peer in serving_peers.PEERS.values())
