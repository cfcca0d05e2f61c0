"""load_model: every family survives a round trip through a folder, and every bad folder or name ends in one sentence."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.models import available_models, load_model
from safesteer_interp.models.families import FAMILIES, layout_for
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.models.special_tokens import set_padding
from safesteer_interp.requests import Attack, Request

Tiny = Callable[[str], MLLM]
REQUEST = Request(id="r", text="How do I renew a passport?", harmful=False, attack=Attack.NONE)


def saved(mllm: MLLM, folder: Path) -> Path:
    mllm.model.save_pretrained(folder)
    mllm.processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tiny("llava"), tmp_path_factory.mktemp("checkpoint") / "little-llava")


@pytest.fixture
def broken(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint to damage."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


@pytest.mark.parametrize("family", FAMILIES)
def test_round_trip_through_a_folder(tiny: Tiny, family: str, tmp_path: Path) -> None:
    mllm = tiny(family)
    loaded = load_model(str(saved(mllm, tmp_path / family)))
    batch, again = mllm.encode([REQUEST]), loaded.encode([REQUEST])
    assert all(torch.equal(batch.inputs[k], again.inputs[k]) for k in batch.inputs | again.inputs)
    assert torch.equal(batch.roles, again.roles)
    with torch.no_grad():
        assert torch.equal(mllm.model(**batch.inputs).logits, loaded.model(**again.inputs).logits)
    assert loaded.layout.family == family and loaded.name == family and loaded.tokenizer.padding_side == "left"
    assert loaded.model.training is False


@pytest.mark.parametrize("family", FAMILIES)
def test_tiny_is_deterministic_and_leaves_the_global_generator_alone(family: str) -> None:
    state = torch.get_rng_state()
    first, second = load_model(f"tiny:{family}"), load_model(f"tiny:{family}")
    assert first.fingerprint == second.fingerprint
    assert torch.equal(state, torch.get_rng_state())


def test_fingerprint_follows_what_affects_numbers(checkpoint: Path, broken: Path) -> None:
    base = load_model(str(checkpoint)).fingerprint
    assert load_model(str(broken)).fingerprint == base
    assert load_model(str(broken), dtype="bfloat16").fingerprint != base
    template = broken / "chat_template.jinja"
    original = template.read_text()
    template.write_text(original.replace("ASSISTANT:", "REPLY:"))
    assert load_model(str(broken)).fingerprint != base
    template.write_text(original)
    settings = broken / "processor_config.json"
    plain = settings.read_text()
    changed = json.loads(plain)
    changed["image_processor"]["image_mean"] = [0.1, 0.2, 0.3]
    settings.write_text(json.dumps(changed))
    assert load_model(str(broken)).fingerprint != base
    settings.write_text(plain)
    weights = load_file(broken / "model.safetensors")
    name = next(iter(weights))
    weights[name] = weights[name] + 1e-3
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    assert load_model(str(broken)).fingerprint != base


def test_dtype_is_kept_and_images_follow_it(checkpoint: Path) -> None:
    mllm = load_model(str(checkpoint), dtype="bfloat16")
    assert mllm.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("plantd", UsageError, 'no model is called "plantd". Did you mean "planted"'),
        ("tiny:lava", UsageError, 'no family is called "lava". Did you mean "llava"'),
        ("./nowhere/at/all", InputError, "the model folder ./nowhere/at/all does not exist"),
        *(
            (f"foo/{name}", UsageError, f'"foo/{name}" is no local folder, and malformed as a hub id: owner/name of letters')
            for name in ("a--b", "-bar", "bar.git", "..", "a..b", "a" * 100)
        ),
        ("somebody/some-model", InputError, '"somebody/some-model" is no local folder, and the hub cannot be reached'),
    ],
)
def test_names_that_mean_nothing(name: str, error: type[Exception], words: str, fresh_cache: Path) -> None:
    with pytest.raises(error, match=re.escape(words)) as caught:
        load_model(name)
    assert "\n" not in str(caught.value)


def test_bad_dtype_and_device() -> None:
    with pytest.raises(UsageError, match='no dtype is called "float8"'):
        load_model("tiny:llama", dtype="float8")
    with pytest.raises(UsageError, match='cannot be placed on device "gpu"'):
        load_model("tiny:llama", device="gpu")


def test_a_file_is_not_a_folder(checkpoint: Path) -> None:
    with pytest.raises(InputError, match="is a file; give a folder"):
        load_model(str(checkpoint / "config.json"))


def test_no_config(broken: Path) -> None:
    (broken / "config.json").unlink()
    with pytest.raises(InputError, match=r"has no config\.json"):
        load_model(str(broken))


@pytest.mark.parametrize("text", ["{", "[]", '"llava"'])
def test_config_that_is_not_a_json_object(broken: Path, text: str) -> None:
    (broken / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json"):
        load_model(str(broken))


def test_pickled_weights_are_refused_unopened(broken: Path) -> None:
    (broken / "model.safetensors").unlink()
    (broken / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(InputError, match=r"pytorch_model\.bin, a pickle, which can run code"):
        load_model(str(broken))


def test_no_weights_at_all(broken: Path) -> None:
    (broken / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no \*\.safetensors file"):
        load_model(str(broken))


def test_truncated_weights(broken: Path) -> None:
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: 1 << 16])
    with pytest.raises(InputError, match="cannot be loaded") as caught:
        load_model(str(broken))
    assert "\n" not in str(caught.value)


def test_a_missing_shard_is_named(broken: Path) -> None:
    (broken / "model.safetensors").unlink()
    index = {"weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}
    (broken / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"lacks 1 of 1 weight files \(first: model-00002-of-00002\.safetensors\)"):
        load_model(str(broken))


def test_an_index_cannot_point_outside_of_the_folder(broken: Path) -> None:
    (broken / "model.safetensors").unlink()
    (broken / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": "../other.safetensors"}}))
    with pytest.raises(InputError, match=r"names a weight file outside of its folder \(\.\./other\.safetensors\)"):
        load_model(str(broken))


def test_weights_that_lack_a_tensor_are_not_filled_at_random(broken: Path) -> None:
    weights = load_file(broken / "model.safetensors")
    dropped = next(name for name in weights if name.endswith("layers.2.mlp.up_proj.weight"))
    save_file({k: v for k, v in weights.items() if k != dropped}, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lack 1 tensors \(first: .*layers\.2\.mlp\.up_proj\.weight\), which would stay random"):
        load_model(str(broken))


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "processor_config.json"])
def test_remote_code_is_refused_and_never_run(broken: Path, file: str, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (broken / "evil.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    settings = json.loads((broken / file).read_text())
    settings["auto_map"] = {"AutoConfig": "evil.C", "AutoModel": "evil.M", "AutoProcessor": "evil.P", "AutoTokenizer": ["evil.T", None]}
    (broken / file).write_text(json.dumps(settings))
    with pytest.raises(InputError, match=f"{re.escape(file)} has auto_map.*--trust-remote-code"):
        load_model(str(broken))
    assert not ran.exists()


def test_code_of_its_own_is_part_of_a_models_fingerprint_where_it_runs(broken: Path) -> None:
    def found(**options: Any) -> str:
        return load_model(str(broken), **options).fingerprint

    before = found()
    (broken / "convert.py").write_text("import torch")
    assert found() == found(trust_remote_code=True) == before, "nothing names that file, so it does not run"
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModelForCTC": "convert.Model"}}))
    (broken / "layers").mkdir()
    (broken / "layers" / "convert.py").write_text("A = 1")
    first = found(trust_remote_code=True)
    (broken / "layers" / "convert.py").write_text("A = 22")
    second = found(trust_remote_code=True)
    (broken / "layers" / "convert.py").rename(broken / "layers" / "other.py")
    third = found(trust_remote_code=True)
    (broken / "layers" / "other.py").rename(broken / "other.py")
    assert len({before, first, second, third, found(trust_remote_code=True)}) == 5


def test_unknown_model_type_is_named_with_the_nearest_and_the_way_in(broken: Path) -> None:
    config = json.loads((broken / "config.json").read_text())
    for kind, near in (("lava", "llava"), ("internvl_old", "internvl"), ("phi4_multimodal", r"\w+")):
        (broken / "config.json").write_text(json.dumps(config | {"model_type": kind}))
        words = rf'model type "{kind}" has no layout entry; the nearest supported one is "{near}"\. To add it, write one file with a Layout'
        with pytest.raises(InputError, match=words):
            load_model(str(broken))
    with pytest.raises(InputError, match='nearest supported one is "mistral"'):
        layout_for(SimpleNamespace(model_type="mixtral"))


def test_available_models_lists_every_family() -> None:
    listed = available_models()
    assert {"mini", "planted"} <= listed.keys()
    assert {f"tiny:{family}" for family in FAMILIES} <= listed.keys()
    assert "smolvlm" in listed["<folder or hub id>"]


def settings_of(folder: Path, change: Callable[[dict], None], name: str = "processor_config.json") -> None:
    record = json.loads((folder / name).read_text())
    change(record)
    (folder / name).write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("family", "field"),
    [
        ("llava", "patch_size"),
        ("llava", "vision_feature_select_strategy"),
        ("llava", "num_additional_image_tokens"),
        ("gemma3", "image_seq_length"),
        ("idefics3", "image_seq_len"),
        ("qwen3_vl", "patch_size"),
        ("qwen2_5_vl", "merge_size"),
    ],
)
def test_settings_a_processor_leaves_out_come_from_the_config(tiny: Tiny, family: str, field: str, tmp_path: Path) -> None:
    folder = saved(tiny(family), tmp_path / family)
    before = load_model(str(folder))

    def drop(record: dict) -> None:
        assert record.get("image_processor", {}).pop(field, None) or record.pop(field, None)

    settings_of(folder, drop)
    assert load_model(str(folder)).fingerprint == before.fingerprint


@pytest.mark.parametrize(
    ("family", "change", "field"),
    [
        ("llava", {"num_additional_image_tokens": 0}, "num_additional_image_tokens"),
        ("llava", {"patch_size": 7}, "patch_size"),
        ("gemma3", {"image_seq_length": 9}, "image_seq_length"),
        ("idefics3", {"image_seq_len": 9}, "image_seq_len"),
    ],
)
def test_image_tokens_and_features_that_disagree(tiny: Tiny, family: str, change: dict, field: str, tmp_path: Path) -> None:
    folder = saved(tiny(family), tmp_path / "odd")
    settings_of(folder, lambda record: record.update(change))
    with pytest.raises(
        InputError, match=rf"odd cannot take a picture .*its processor writes \d+ image tokens .*{field}.* belong to config\.json"
    ):
        load_model(str(folder))


@pytest.mark.parametrize("family", ["llama", "llava"])
def test_a_pad_token_outside_the_embedding_gives_way(family: str, tmp_path: Path) -> None:
    mllm = FAMILIES[family].tiny()
    mllm.tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    loaded = load_model(str(saved(mllm, tmp_path / family)))
    assert loaded.tokenizer.pad_token == loaded.tokenizer.eos_token
    batch = loaded.encode([REQUEST, Request("A much longer question than the other one, is it not?")])
    assert batch.input_ids.max() < loaded.model.get_input_embeddings().weight.shape[0]


def test_no_special_token_can_pad(tiny: Tiny) -> None:
    tokenizer = SimpleNamespace(pad_token="[PAD]", pad_token_id=10**6, eos_token_id=10**6 + 1, bos_token_id=None, unk_token_id=None)
    with pytest.raises(InputError, match=r'mine: its tokenizer pads with "\[PAD\]", id 1000000, but the model\'s embedding has \d+ rows'):
        set_padding(tiny("llama").model, tokenizer, "mine")


@pytest.fixture
def adapter(tiny: Tiny, tmp_path: Path) -> Path:
    """An adapter of the tiny Llama that moves its weights."""
    peft = pytest.importorskip("peft", reason="peft is not installed")
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(
        FAMILIES["llama"].tiny().model, peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    )
    wrapped.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapter_left_in_the_folder_is_not_attached(tiny: Tiny, adapter: Path, tmp_path: Path) -> None:
    folder = saved(tiny("llama"), tmp_path / "merged")
    before = load_model(str(folder))
    for file in adapter.iterdir():
        if file.name.startswith("adapter_"):
            shutil.copy(file, folder / file.name)
    after = load_model(str(folder))
    assert after.fingerprint == before.fingerprint
    assert not [name for name, _ in after.model.named_parameters() if "lora" in name]
    assert all(torch.equal(a, b) for a, b in zip(before.model.parameters(), after.model.parameters(), strict=True))


def test_an_adapter_is_merged_when_asked_for(tiny: Tiny, adapter: Path, tmp_path: Path) -> None:
    folder = saved(tiny("llama"), tmp_path / "base")
    plain, adapted, built = load_model(str(folder)), load_model(str(folder), adapter=adapter), load_model("tiny:llama", adapter=adapter)
    weight = "model.layers.1.self_attn.q_proj.weight"
    assert not torch.allclose(plain.model.get_parameter(weight), adapted.model.get_parameter(weight))
    assert torch.allclose(built.model.get_parameter(weight), adapted.model.get_parameter(weight))
    assert len({plain.fingerprint, adapted.fingerprint, built.fingerprint}) == 3
    assert adapted.name == "base+adapter" and type(adapted.model) is type(plain.model)


def test_adapters_that_are_no_model_or_of_another_one(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds an adapter without its model; load the model it belongs to, as load_model\("):
        load_model(str(adapter))
    with pytest.raises(InputError, match="cannot be merged into the model"):
        load_model("tiny:gemma3", adapter=adapter)
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no adapter_model\.safetensors"):
        load_model("tiny:llama", adapter=adapter)


@pytest.mark.parametrize("file", ["tokenizer.json", "model.safetensors", "config.json", "tokenizer_config.json"])
def test_a_pointer_of_git_lfs_is_named(broken: Path, file: str) -> None:
    (broken / file).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(InputError, match=rf"{re.escape(file)} is a git-lfs pointer and not the file itself; run `git lfs pull`"):
        load_model(str(broken))


@pytest.mark.parametrize(("text", "words"), [("{", r"tokenizer\.json is not readable JSON"), ('{"model": 3}', "cannot be loaded")])
def test_a_tokenizer_that_cannot_be_read(broken: Path, text: str, words: str) -> None:
    (broken / "tokenizer.json").write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        load_model(str(broken))
    assert "\n" not in str(caught.value)


def test_quantised_checkpoints_get_the_right_advice(broken: Path) -> None:
    settings_of(broken, lambda record: record.update(quantization_config={"quant_method": "awq", "bits": 4}), "config.json")
    with pytest.raises(InputError, match=r"it is quantised \(awq\): load it with transformers .* MLLM\.of\(model, processor\)"):
        load_model(str(broken))


def test_the_file_that_is_loaded_is_the_file_that_is_hashed(broken: Path) -> None:
    """transformers takes model.safetensors before an index, so nothing beside it may move or spoil the fingerprint."""
    before = load_model(str(broken)).fingerprint
    save_file({"x": torch.zeros(1)}, broken / "optimizer.safetensors")
    (broken / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "optimizer.safetensors"}}))
    assert load_model(str(broken)).fingerprint == before
    (broken / "model.safetensors").rename(broken / "model.fp32.safetensors")
    (broken / "model.safetensors.index.json").unlink()
    with pytest.raises(InputError, match=r"neither model\.safetensors nor an index of shards"):
        load_model(str(broken))


def test_attention_kernel_and_system_prompt() -> None:
    mllm = load_model("tiny:llava", attn_implementation="eager", system_prompt="Be brief.")
    assert mllm.model.config.get_text_config()._attn_implementation == "eager" and mllm.system_prompt == "Be brief."
    assert mllm.fingerprint == load_model("tiny:llava").fingerprint  # a trace's key holds the kernel by itself
    with pytest.raises(UsageError, match='cannot run with the attention kernel "nonsense"'):
        load_model("tiny:llava", attn_implementation="nonsense")


def test_smolvlm_without_its_video_half_applies_its_template(tiny: Tiny) -> None:
    turns = [{"role": "user", "content": [{"type": "text", "text": "Hello?"}]}]
    said = tiny("smolvlm").processor.apply_chat_template(turns, add_generation_prompt=True)
    assert said == "<|im_start|>User: Hello?<end_of_utterance>\nAssistant:"
