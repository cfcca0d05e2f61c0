"""A model split over memory and disk gives the bytes of the whole one; what cannot be placed is said before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.decoding import asked, ids
from support.tracing import all_reads, all_sites, assert_same, push, requests_for

from safesteer_interp.decoding.policies import Guided, RefusalTokens
from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.models import MLLM, load_model
from safesteer_interp.models.families import FAMILIES
from safesteer_interp.models.placement import Placement, parsed_map, parsed_memory, refuse_too_little_memory, size_in_bytes
from safesteer_interp.tracing.engines import load_tracer
from safesteer_interp.tracing.tracer import Sampling


def saved(family: str, folder: Path) -> Path:
    mllm = load_model(f"tiny:{family}")
    mllm.model.save_pretrained(folder)
    mllm.processor.save_pretrained(folder)
    return folder


def halved(mllm: MLLM) -> dict[str, str]:
    """Embeddings, eyes and the first half of the layers in memory, the other half on disk."""
    places: dict[str, str] = {}
    layers = mllm.layout.layers
    weights = (*mllm.model.named_parameters(remove_duplicate=False), *mllm.model.named_buffers())
    for name, _ in weights:
        if name.startswith(f"{layers}."):
            number = int(name[len(layers) + 1 :].split(".")[0])
            places[f"{layers}.{number}"] = "disk" if number >= mllm.n_layers // 2 else "cpu"
        else:
            places[name.rpartition(".")[0] if name.count(".") > 1 else name] = "cpu"
    return places


@pytest.mark.parametrize("family", [pytest.param(f, marks=[] if f in ("llava", "qwen2_5_vl") else pytest.mark.slow) for f in FAMILIES])
def test_a_model_split_over_memory_and_disk_gives_the_same_bytes(family: str, tmp_path: Path) -> None:
    folder = saved(family, tmp_path / "model")
    whole = load_model(str(folder))
    split = load_model(str(folder), device_map=halved(whole), offload=tmp_path / "offload")
    assert any(p.device.type == "meta" for p in split.model.parameters()), "nothing was put on disk"
    assert split.fingerprint == whole.fingerprint
    batch = whole.encode(requests_for(whole))
    for edits in ((), (push(whole, "resid_post.1,resid_post.3"),)):
        asks: dict[str, Any] = {"sites": all_sites(whole), "reads": all_reads(whole), "sampling": Sampling(3), "edits": edits}
        one, other = (load_tracer("hooks", m).capture(batch, **asks) for m in (whole, split))
        assert_same(one, other, exact=True)
    with pytest.raises(UsageError, match="is spread over 2"):
        load_tracer("transformer_lens", split)
    asks = {"sites": all_sites(whole), "reads": all_reads(whole)}
    assert_same(*(load_tracer(name, split).capture(batch, **asks) for name in ("hooks", "nnsight")), exact=True)
    from safesteer_interp.decoding import generate

    guided = [ids(generate(m, asked(m), Guided(RefusalTokens.of(m), k=3, steps=2), Sampling(4))) for m in (whole, split)]
    assert guided[0] == guided[1]


def test_maps_and_limits_are_read_or_refused_in_a_sentence(tmp_path: Path) -> None:
    assert parsed_map("auto") == "auto"
    file = tmp_path / "map.json"
    file.write_text(json.dumps({"model": 0, "lm_head": "cpu"}), encoding="utf-8")
    assert parsed_map(str(file)) == parsed_map(file.read_text()) == {"model": 0, "lm_head": "cpu"}
    assert parsed_memory("0=20GiB, cpu=60GB") == {0: "20GiB", "cpu": "60GB"}
    assert size_in_bytes("1.5GiB") == 1.5 * 2**30
    for bad in ("blanced", "{", "[]", "{}", '{"model": true}', '{"model": "gpu nine"}'):
        with pytest.raises(UsageError, match=r"device-map|device map|device is"):
            parsed_map(bad)
    for limits in ("0", "gpu=1GiB", "0=many", "²=1GiB", "0=1.2.3GiB", "0=.GiB"):
        with pytest.raises(UsageError, match="--max-memory"):
            parsed_memory(limits)


def test_too_little_memory_is_said_before_loading_with_what_would_fit() -> None:
    with pytest.raises(InputError, match=r"needs 2048.0 GiB .*--device-map auto"):
        refuse_too_little_memory("huge", 2.0**41, Placement("cpu"))
    with pytest.raises(InputError, match=r"what --max-memory allows has 3\.0 GiB"):
        refuse_too_little_memory("large", 4.0 * 2**30, Placement("cpu", "auto", "0=1GiB,cpu=2GiB"))
    refuse_too_little_memory("large", 4.0 * 2**30, Placement("cpu", "auto", "0=1GiB,cpu=2GiB", offload=Path("there")))
    refuse_too_little_memory("small", 1e6, Placement("cpu"))


def test_a_map_that_names_no_module_or_forgets_one_is_refused(tmp_path: Path) -> None:
    folder = saved("llava", tmp_path)
    with pytest.raises(InputError, match=r'names "model.vision_towr".*model.vision_tower'):
        load_model(str(folder), device_map={"model.vision_towr": "cpu", "model": "cpu", "lm_head": "cpu"})
    with pytest.raises(InputError, match=r"without a place \(first: lm_head.weight\)"):
        load_model(str(folder), device_map={"model": "cpu"})


def test_a_map_of_devices_that_are_not_all_here_is_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for mixed in ({"model": 0, "lm_head": "cpu"}, {"model": "cpu", "lm_head": "cuda"}, {"model": "cpu", "lm_head": "cuda:3"}):
        with pytest.raises(UsageError, match="this machine has none that torch can use; give a map of its own devices"):
            load_model(str(tmp_path), device_map=mixed)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match=r"on GPU 2, and this machine has 2, numbered from 0"):
        Placement(device_map={"model": 1, "lm_head": 2}).options(torch.float32)
    assert Placement(device_map={"model": 1, "lm_head": "cpu"}).options(torch.float32)["device_map"]["model"] == 1


def test_packed_weights_without_their_library_are_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safesteer_interp.models.placement.has", lambda package: False)
    with pytest.raises(UsageError, match="needs the package bitsandbytes"):
        load_model("tiny:llava", quant="4bit")
    with pytest.raises(UsageError, match="torchao"):
        Placement(quant="int8").options(torch.float32)
    with pytest.raises(UsageError, match='--quant "3bit" is not known'):
        Placement(quant="3bit").options(torch.float32)
    with pytest.raises(UsageError, match="built in memory"):
        load_model("planted", device_map="auto")


def test_a_cap_on_pixels_lowers_image_tokens_and_changes_the_fingerprint(tmp_path: Path) -> None:
    picture = [r for r in requests_for(load_model("tiny:qwen2_5_vl")) if r.image is not None][:1]
    for family, most in (("qwen2_5_vl", 28 * 28), ("idefics3", 56 * 56)):
        plain, capped = load_model(f"tiny:{family}"), load_model(f"tiny:{family}", max_pixels=most)
        count = [int((m.encode(picture).roles == 2).sum()) for m in (plain, capped)]
        assert count[1] < count[0], family
        assert plain.fingerprint != capped.fingerprint
        with pytest.raises(UsageError, match="--max-pixels 5 is below"):
            load_model(f"tiny:{family}", max_pixels=5)
    with pytest.raises(UsageError, match="same number of tokens"):
        load_model("tiny:llava", max_pixels=5000)
