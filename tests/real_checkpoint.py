"""A folder laid out like the Hub's Qwen/Qwen2.5-VL-3B-Instruct, small enough for a test.

As in the real one: the flat configuration of 2025 with every number of it but depths and widths; 151,936 embeddings; the
special tokens at their real places, 151,643 to 151,664, which leaves 271 embeddings without a token; a tokenizer in
Qwen2's files; weights under the names and in the two shards that the release uses, without an output matrix (it is the
embedding); the chat template in its own file.
Not as in the real one: the texts of the 151,387 ordinary tokens beyond single bytes, which cannot be had without the
Hub. They are fillers that no text reaches, so any text is spelled in bytes. The weights are random.
"""

import json

import torch
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from reproduce.micro.model import CHAT_TEMPLATE

VOCABULARY, ORDINARY = 151_936, 151_643
SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
]
IDS = {token: ORDINARY + i for i, token in enumerate(SPECIAL)}
REAL = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "vision_token_id": 151654,
    "image_token_id": 151655,
    "video_token_id": 151656,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_position_embeddings": 128000,
    "max_window_layers": 70,
    "model_type": "qwen2_5_vl",
    "num_attention_heads": 16,
    "num_hidden_layers": 36,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.41.2",
    "use_cache": True,
    "use_sliding_window": False,
    "vision_config": {
        "depth": 32,
        "hidden_act": "silu",
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "in_chans": 3,
        "out_hidden_size": 2048,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "tokens_per_second": 2,
        "temporal_patch_size": 2,
    },
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "vocab_size": VOCABULARY,
}
PREPROCESSOR = {
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2_5_VLProcessor",
}
GENERATION = {
    "bos_token_id": 151643,
    "pad_token_id": 151643,
    "do_sample": True,
    "eos_token_id": [151645, 151643],
    "repetition_penalty": 1.05,
    "temperature": 0.000001,
}


def shrunk_config():
    """The real configuration with 2 layers of width 256 instead of 36 of 2048; heads stay 128 wide, as M-RoPE needs."""
    small = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    vision = {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "out_hidden_size": 256}
    vision |= {"fullatt_block_indexes": [1]}
    return REAL | small | heads | {"vision_config": REAL["vision_config"] | vision}


def write_tokenizer(folder):
    """vocab.json, merges.txt and tokenizer_config.json, as Qwen2's slow tokenizer reads them."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*letters, "Ġt", "he"])}
    vocabulary |= {f"filler{i}": i for i in range(len(vocabulary), ORDINARY)}
    added = {
        str(i): {"content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
        | {"special": token.startswith("<|") and "fim" not in token and token not in ("<|repo_name|>", "<|file_sep|>")}
        for token, i in IDS.items()
    }
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "additional_special_tokens": SPECIAL[1:14],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\nĠ t\nh e\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def released_name(name):
    """A parameter's name in the checkpoints of early 2025."""
    return name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")


def write_weights(folder, seed=0):
    """Two bf16 shards and their index; returns {today's name: tensor}."""
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**shrunk_config())).to(torch.bfloat16)
    state = {k: v.clone() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    shards = {"model-00001-of-00002.safetensors": {}, "model-00002-of-00002.safetensors": {}}
    for name, tensor in state.items():
        file = list(shards)["layers.1" in name or "norm" in name.rsplit(".", 2)[-2]]
        shards[file][released_name(name)] = tensor
    for file, tensors in shards.items():
        save_file(tensors, folder / file, metadata={"format": "pt"})
    where = {name: file for file, tensors in shards.items() for name in tensors}
    total = sum(t.nbytes for t in state.values())
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": where})
    )
    return state


def write_checkpoint(folder):
    """The whole folder; returns its weights by today's names."""
    folder.mkdir(parents=True)
    files = {
        "config.json": shrunk_config(),
        "generation_config.json": GENERATION,
        "preprocessor_config.json": PREPROCESSOR,
        "chat_template.json": {"chat_template": CHAT_TEMPLATE},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2))
    write_tokenizer(folder)
    return write_weights(folder)
