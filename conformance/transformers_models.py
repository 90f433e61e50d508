"""One tiny network of each kind of transformers: the library's own config, with its sizes made small.

Fields are shrunk by what their names say (:data:`SIZES`), in the config and all configs inside it;
:data:`FIELDS` and :data:`INPUTS` have what can't be told from names: fields that must agree, and inputs.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from tests.networks import Network

VOCABULARY, WIDTH, HEADS, LAYERS, TOKENS = 99, 32, 4, 2, 12

#: The first of these found in the name of a field that holds an int larger than the value replaces it by that.
SIZES: tuple[tuple[str, int], ...] = (
    (r"^codebook_size$", 64),
    (r"^(text_)?vocab_size$", VOCABULARY),
    (r"_token_id$|_token_index$|^token_id", 7),
    (r"num_(key_value|kv)_heads|^n_kv_heads|^multi_query_group_num$", HEADS // 2),
    (r"(num|n)_(attention_)?heads?$|attention_heads$|_num_heads$|^n_head$|num_query_heads", HEADS),
    (r"(^|_)(num|n)_(hidden_|encoder_|decoder_)?(layers|layer|blocks)$|(encoder|decoder)_layers$|^depth$", LAYERS),
    (r"^n_layers?$|_num_layers$|^num_(conv_pos|hidden_groups)|_depth$", LAYERS),
    (r"^(head_dim|d_kv|key_value_dim|v_head_dim|attention_head_dim|qk_nope_head_dim|rotary_dim)$", WIDTH // HEADS),
    (r"^(qk_rope_head_dim|n_group|n_groups)$", 4),
    (r"^(q|kv)_lora_rank$", 16),
    (r"^num_(local_|routed_)?experts$|^n_routed_experts$|^moe_num_experts$", 4),
    (r"(num_)?experts_per_tok(en)?$|^moe_(topk|k|top_k)$|^top_k_experts$", 2),
    (r"intermediate_size$|ffn_dim$|^d_ff$|^d_inner$|^n_inner$|^mlp_dim$|ffn_hidden_size$|^dim_feedforward$", 2 * WIDTH),
    (r"^(hidden_size|d_model|n_embd|dim|hidden_dim|embed_dim|embedding_size|d_embed|model_dim)$", WIDTH),
    (r"(_hidden_size|_embed_dim|_dim_out|projection_dim|_embedding_size)$", WIDTH),
    (r"^image_size$|^img_size$|^input_size$", 64),
    (r"^patch_size$", 8),
    (r"max_(source_|target_)?position(s|_embeddings)$|^n_positions$|^n_ctx$|^max_seq_len$", 64),
    (r"^num_mel_bins$", 16),
    (r"^(state_size|mamba_d_state|ssm_state_size)$", 8),
    (r"^num_queries$|^num_query_tokens$", 6),
)

#: Fields left out, so that the config makes them anew.
REMADE = frozenset({"out_features", "out_indices", "stage_names", "per_layer_config"})

#: What can't be told from names, for each kind: fields of the config, parts with dots, that must agree or be small.
_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_chunk_size": 8}
_SECTIONS = {"rope_parameters.rope_type": "default", "rope_parameters.mrope_section": [1, 1, 2]}
_SWIN = {"hidden_size": None, "embed_dim": 24, "depths": [1, 1, 2, 1], "window_size": 4, "image_size": 64}
_MLA = {"qk_head_dim": None, "head_dim": None, "n_group": 1, "topk_group": 1, "num_key_value_heads": HEADS,
        "first_k_dense_replace": 1}  # fmt: skip
_SERIES = {"prediction_length": 8, "context_length": 16, "input_size": 1, "lags_sequence": [1, 2, 3], "d_model": 32}
_TEXT_SECTIONS = {f"text_config.{k}": v for k, v in _SECTIONS.items()}
_HALF_SECTIONS = {**_SECTIONS, "rope_parameters.mrope_section": [1, 1, 0]}
FIELDS: dict[str, dict[str, Any]] = {
    "align": {"vision_config.hidden_dim": 640, "projection_dim": 640, "text_config.hidden_size": WIDTH},
    "audio-spectrogram-transformer": {"max_length": 64},
    "autoformer": {**_SERIES, "moving_average": 5},
    "axk1": _MLA,
    "bamba": {**_MAMBA, "attn_layer_indices": [1]},
    "bros": {"dim_bbox_sinusoid_emb_2d": 32, "dim_bbox_sinusoid_emb_1d": 4, "dim_bbox_projection": 8},
    "decision_transformer": {"vocab_size": 1, "bos_token_id": None, "eos_token_id": None, "n_head": 2},
    "d_fine": {"backbone_config.out_indices": [2, 3, 4]},
    "deepseek_v2": _MLA,
    "deepseek_v3": _MLA,
    "deimv2": {"backbone_config.out_indices": [2, 3, 4]},
    "donut-swin": {**_SWIN, "num_heads": [2, 2, 4, 4]},
    "efficientnet": {"hidden_dim": 2560, "image_size": 64},
    "esm": {"vocab_size": VOCABULARY, "mask_token_id": 7, "pad_token_id": 1},
    "flaubert": {"emb_dim": WIDTH, "n_heads": HEADS, "n_layers": LAYERS},
    "luke": {"entity_vocab_size": 50, "entity_emb_size": WIDTH},
    "xlm": {"emb_dim": WIDTH, "n_heads": HEADS, "n_layers": LAYERS},
    "falcon_h1": {**_MAMBA, "mamba_d_ssm": 64},
    **dict.fromkeys(["glm46v", "glm4v", "glm_image", "glm_ocr", "glmga", "paddleocr_vl"], _TEXT_SECTIONS),
    **dict.fromkeys(["glm4v_text", "glm_image_text", "glm_ocr_text"], _SECTIONS),
    "glm4v_moe": {f"text_config.{k}": v for k, v in _HALF_SECTIONS.items()},
    "glm4v_moe_text": _HALF_SECTIONS,
    "granitemoehybrid": {**_MAMBA, "layer_types": ["mamba", "attention"]},
    "informer": {**_SERIES, "moving_average": 5},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4, "use_mamba_kernels": False},
    "kimi_linear": _MLA,
    "layoutlmv3": {"coordinate_size": 5, "shape_size": 6, "input_size": 64, "patch_size": 16},
    "levit": {"image_size": 224},
    "lilt": {"channel_shrink_ratio": 2, "hidden_size": 48},
    "longcat_flash": {"qk_head_dim": None, "head_dim": 4, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 8},
    "maskformer-swin": {**_SWIN, "num_heads": [2, 2, 4, 4]},
    "minicpm3": _MLA,
    "mobilebert": {"hidden_size": 64, "embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32,
                   "intermediate_size": 64},
    "mobilevitv2": {"image_size": 64},
    "moonshine": {"encoder_num_key_value_heads": HEADS, "decoder_num_key_value_heads": HEADS},
    "patchtst": {"num_input_channels": 3, "do_mask_input": False},
    "patchtsmixer": {"num_input_channels": 3},
    "pp_doclayout_v3": {"backbone_config.out_indices": [1, 2, 3, 4]},
    "pp_doclayout_v4": {"backbone_config.out_indices": [2, 3, 4]},
    "pvt": {"image_size": 224, "sequence_reduction_ratios": [8, 4, 2, 1]},
    "qwen2_vl": _TEXT_SECTIONS,
    "qwen2_vl_text": _SECTIONS,
    "qwen2_5_vl": _TEXT_SECTIONS,
    "qwen2_5_vl_text": _SECTIONS,
    "recurrent_gemma": {"num_hidden_layers": 3, "lru_width": WIDTH, "attention_window_size": 16},
    "reformer": {"axial_pos_embds_dim": [8, 24], "axial_pos_shape": [4, 16], "attn_layers": ["local", "lsh"],
                 "lsh_attn_chunk_length": 4, "local_attn_chunk_length": 4, "num_buckets": 2, "hash_seed": 0},
    "rt_detr": {"backbone_config.out_indices": [2, 3, 4]},
    "rt_detr_v2": {"backbone_config.out_indices": [2, 3, 4]},
    "swin": {**_SWIN, "num_heads": [2, 2, 4, 4]},
    "swin2sr": {"embed_dim": 24, "depths": [1, 2], "num_heads": [2, 2], "window_size": 4, "image_size": 16,
                "hidden_size": None},
    "swinv2": {**_SWIN, "num_heads": [2, 2, 4, 4]},
    "time_series_transformer": _SERIES,
    "timesformer": {"num_frames": 2},
    "univnet": {"model_in_channels": 16, "model_hidden_channels": 8, "num_mel_bins": 20},
}  # fmt: skip

#: Inputs that can't be told from the arguments of ``forward``: functions of the config.
INPUTS: dict[str, Callable[[Any], dict[str, torch.Tensor]]] = {
    "audio-spectrogram-transformer": lambda c: {"input_values": torch.randn(2, c.max_length, c.num_mel_bins)},
    "audioflamingo3_encoder": lambda c: {
        "input_features": torch.randn(2, c.num_mel_bins, 2 * c.max_source_positions),
        "input_features_mask": torch.ones(2, 2 * c.max_source_positions, dtype=torch.int64),
    },
    "blip_2_qformer": lambda c: {
        "query_embeds": torch.randn(2, 6, c.hidden_size),
        "encoder_hidden_states": torch.randn(2, 10, c.encoder_hidden_size),
    },
    "clap": lambda c: {
        "input_ids": tokens(2, TOKENS),
        "attention_mask": mask(2, TOKENS),
        "input_features": torch.randn(2, 1, 1001, c.audio_config.num_mel_bins),
        "is_longer": torch.zeros(2, 1, dtype=torch.bool),
    },
    "decision_transformer": lambda c: {
        "states": torch.randn(2, 5, c.state_dim), "actions": torch.randn(2, 5, c.act_dim),
        "rewards": torch.randn(2, 5, 1), "returns_to_go": torch.randn(2, 5, 1),
        "timesteps": torch.arange(5).repeat(2, 1), "attention_mask": torch.ones(2, 5),
    },
    "idefics3_vision": lambda c: {"pixel_values": pixels(c)},
    "lxmert": lambda c: {
        "input_ids": tokens(2, TOKENS), "visual_feats": torch.randn(2, 6, c.visual_feat_dim),
        "visual_pos": torch.rand(2, 6, c.visual_pos_dim),
    },
    "mobilevitv2": lambda c: {"pixel_values": torch.randn(2, 3, 128, 128)},
    "patchtst": lambda c: {"past_values": torch.randn(2, c.context_length, c.num_input_channels)},
    "patchtsmixer": lambda c: {"past_values": torch.randn(2, c.context_length, c.num_input_channels)},
    "siglip": lambda c: {
        "input_ids": tokens(2, TOKENS), "attention_mask": mask(2, TOKENS), "pixel_values": pixels(c),
    },
    "smolvlm_vision": lambda c: {"pixel_values": pixels(c)},
    "speech_to_text": lambda c: {
        "input_features": torch.randn(2, 40, c.input_feat_per_channel), "decoder_input_ids": tokens(2, 5),
    },
    "speecht5": lambda c: {"input_values": torch.randn(2, 10, c.hidden_size),
                           "decoder_input_values": torch.randn(2, 6, c.hidden_size)},
    "vit_mae": lambda c: {"pixel_values": pixels(c), "noise": torch.rand(2, (c.image_size // c.patch_size) ** 2)},
    "time_series_transformer": lambda c: _series(c),
    "informer": lambda c: _series(c),
    "autoformer": lambda c: _series(c),
    "timesformer": lambda c: {"pixel_values": torch.randn(2, c.num_frames, 3, c.image_size, c.image_size)},
    "univnet": lambda c: {"input_features": torch.randn(2, 12, c.num_mel_bins),
                          "noise_sequence": torch.randn(2, 12, c.model_in_channels)},
}  # fmt: skip


def small(fields: Mapping[str, Any], layers: int = LAYERS) -> dict[str, Any]:
    """A config's fields, shrunk by name; lists with an entry for each layer keep one of each kind of layer."""
    full = next((fields[k] for k in ("num_hidden_layers", "n_layer", "num_layers", "n_layers") if k in fields), None)
    latent = {"qk_nope_head_dim", "qk_rope_head_dim"} <= fields.keys()  # whose heads are the two together
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if name in REMADE or (latent and name in ("head_dim", "qk_head_dim")):
            continue
        if latent and name == "num_key_value_heads":
            found[name] = min(HEADS, value)
            continue
        if isinstance(value, dict) and name not in ("id2label", "label2id", "rope_parameters", "rope_scaling"):
            found[name] = small(value, layers)
        elif value is None and name == "head_dim":
            found[name] = WIDTH // HEADS
        elif isinstance(value, list) and len(value) == full and full > layers:
            kinds = [v for i, v in enumerate(value) if v not in value[:i]] if isinstance(value[0], str) else value
            found[name] = (kinds * layers)[:layers]
        elif isinstance(value, int) and not isinstance(value, bool):
            size = next((n for pattern, n in SIZES if re.search(pattern, name)), value)
            found[name] = min(size, value)
        else:
            found[name] = value
    return found


def config_of(kind: str) -> Any:
    """The tiny config of a kind of model."""
    from transformers import CONFIG_MAPPING

    default = CONFIG_MAPPING[kind]()
    fields = small(default.to_dict())
    for path, value in FIELDS.get(kind, {}).items():
        *parts, last = path.split(".")
        inside = fields
        for part in parts:
            inside = inside[part]
        if value is None:
            inside.pop(last, None)
        else:
            inside[last] = value
    return type(default).from_dict(fields)


def part(config: Any, name: str, field: str) -> Any:
    """The part ``name`` of a config that has ``field``, or the config itself."""
    inner = getattr(config, name, None)
    return inner if inner is not None and hasattr(inner, field) else config


def tokens(batch: int, length: int) -> torch.Tensor:
    """Token ids, none of them special."""
    return torch.randint(10, VOCABULARY, (batch, length))


def pixels(config: Any, batch: int = 2) -> torch.Tensor:
    """Images of the config's size."""
    vision = part(config, "vision_config", "image_size")
    size = getattr(vision, "image_size", 64)
    sides = (size, size) if isinstance(size, int) else tuple(size)
    frames = getattr(vision, "num_frames", None)
    return torch.randn(batch, *([frames] if frames else []), getattr(vision, "num_channels", 3), *sides)


def _videos(config: Any) -> torch.Tensor:
    vision = part(config, "vision_config", "image_size")
    size = getattr(vision, "crop_size", None) or vision.image_size
    return torch.randn(2, getattr(vision, "frames_per_clip", 4), 3, size, size)


def _sound(config: Any) -> torch.Tensor:
    """Samples of a sound; of codecs, which say how many channels they take, for each channel."""
    channels = getattr(config, "audio_channels", None)
    return torch.randn(2, *([channels] if channels else []), 2000)


def _features(config: Any) -> torch.Tensor:
    audio = part(config, "audio_config", "num_mel_bins")
    return torch.randn(2, audio.num_mel_bins, 2 * getattr(audio, "max_source_positions", 32))


def _series(config: Any) -> dict[str, torch.Tensor]:
    """A past and a future of a time series, all of it observed."""
    past = config.context_length + max(config.lags_sequence)
    return {
        "past_values": torch.randn(2, past),
        "past_time_features": torch.randn(2, past, config.num_time_features),
        "past_observed_mask": torch.ones(2, past),
        "future_values": torch.randn(2, config.prediction_length),
        "future_time_features": torch.randn(2, config.prediction_length, config.num_time_features),
    }


#: Argument of ``forward`` -> example, of the config.
MAKERS: dict[str, Callable[[Any], torch.Tensor]] = {
    "input_ids": lambda c: tokens(2, TOKENS),
    "decoder_input_ids": lambda c: tokens(2, TOKENS // 2),
    "pixel_values": pixels,
    "input_features": _features,
    "input_values": _sound,
    "pixel_values_videos": _videos,
    "past_values": lambda c: torch.randn(2, c.context_length),
    "bbox": lambda c: torch.randint(0, 20, (2, TOKENS, 1)) + torch.tensor([0, 0, 5, 9]),
}


def mask(batch: int, length: int) -> torch.Tensor:
    """Everything is seen but the last two tokens of the last sequence."""
    seen = torch.ones(batch, length, dtype=torch.int64)
    seen[-1, -2:] = 0
    return seen


def inputs_of(kind: str, module: Any) -> dict[str, torch.Tensor]:
    """Keyword arguments for a network."""
    if kind in INPUTS:
        return INPUTS[kind](module.config)
    takes = inspect.signature(module.forward).parameters
    wanted = [module.main_input_name]
    wanted += (
        ["pixel_values"]
        if {"input_ids", "pixel_values", "attention_mask"} <= set(takes) and hasattr(module.config, "projection_dim")
        else []
    )
    wanted += ["input_ids"] if wanted[0] == "pixel_values" and "input_ids" in takes else []
    wanted += [n for n in ("decoder_input_ids", "bbox") if n in takes]
    found = {n: MAKERS[n](module.config) for n in dict.fromkeys(wanted)}
    if "input_ids" in found and "attention_mask" in takes:
        found["attention_mask"] = mask(2, TOKENS)
    return found


def build(kind: str) -> Network:
    """The base network of a kind, tiny, with random weights."""
    from transformers import MODEL_MAPPING

    config = config_of(kind)
    model = MODEL_MAPPING[type(config)]
    module = (model[0] if isinstance(model, tuple) else model)(config)
    return Network(module, (), inputs_of(kind, module))


def names() -> Sequence[str]:
    """The kinds of models."""
    return KINDS


#: The kinds that are swept, the best known first.
KINDS: tuple[str, ...] = tuple(
    """
    bert gpt2 llama t5 whisper clip vit mamba mixtral wav2vec2 albert bart roberta distilbert deberta deberta-v2
    electra xlm-roberta mpnet modernbert opt bloom gpt_neo gpt_neox gptj falcon phi phi3 qwen2 qwen3 gemma
    gemma2 gemma3_text mistral stablelm starcoder2 olmo olmo2 cohere granite mbart pegasus marian m2m_100 led
    longt5 mt5 umt5 prophetnet bigbird_pegasus big_bird longformer nystromformer squeezebert funnel canine fnet
    deit beit convnext convnextv2 resnet regnet mobilenet_v1 mobilenet_v2 mobilevit mobilevitv2 segformer
    poolformer focalnet dinov2 vit_mae vit_msn pvt_v2 cvt efficientnet bit detr yolos dpt glpn hubert wavlm sew
    sew-d unispeech unispeech-sat data2vec-audio data2vec-text data2vec-vision speech_to_text
    audio-spectrogram-transformer wav2vec2-conformer seamless_m4t clipseg altclip chinese_clip blip flava
    groupvit owlvit git layoutlm layoutlmv3 mamba2 falcon_mamba rwkv recurrent_gemma jamba bamba qwen2_moe
    qwen3_moe olmoe phimoe granitemoe switch_transformers deepseek_v3 jetmoe gpt_oss nllb-moe xglm biogpt
    codegen ctrl openai-gpt patchtst patchtsmixer decision_transformer convbert rembert roformer splinter
    mobilebert megatron-bert lxmert visual_bert bros lilt timesformer table-transformer conditional_detr
    deformable_detr afmoe aimv2 aimv2_vision_model align apertus arcee aria_text audioflamingo3
    audioflamingo3_encoder axk1 aya_vision bert-generation bitnet blenderbot blenderbot-small blip_2_qformer
    camembert chinese_clip_vision_model clip_text_model clip_vision_model cohere2 cohere2_moe cohere2_vision
    cosmos3_omni cpmant cwm d_fine dab-detr deepseek_v4 deepseek_vl deepseek_vl_hybrid deimv2 diffllama
    dinov2_with_registers dinov3_convnext dinov3_vit doge dpr embedding_gemma2 embedding_gemma2_text ernie
    ernie4_5 ernie4_5_moe esm eurobert evolla exaone4 exaone4_5 exaone_moe falcon_h1 fast_vlm flaubert flex_olmo
    flint florence2 fsmt fuyu gemma3 gemma3n_vision gemma4 gemma4_text gemma4_unified gemma4_unified_text glm
    glm4 glm4_moe glmasr glmasr_encoder got_ocr2 gpt-sw3 gpt_bigcode gpt_neox_japanese granite_docling
    granite_docling_text granite_speech granite_speech_plus granite_swa granitemoe_swa granitemoehybrid
    granitemoeshared gte helium hgnet_v2 hiera higgs_audio_v2 hunyuan_v1_dense hunyuan_v1_moe hy_v3 hy_v4
    hyperclovax hyperclovax_vision_v2 ibert idefics2 idefics3 idefics3_vision ijepa imagegpt inkling2
    inkling2_text inkling_text internlm3 internvl internvl_vision iquestcoder jais2 janus jina_embeddings_v3
    kimi_linear kolibri1 kosmos-2.5 laguna lfm2 lfm2_vl lfm3 lfm3_vl lighton_ocr llama4 llama4_text llava
    llava_next llava_next_video llava_onevision luke markuplm maskformer-swin mellum metaclip_2 mgp-str
    mimo_v2_flash minicpm3 minicpm_ocr minicpmv4_6 minicpmv4_7 minimax minimax_m2 minimax_m3_vl
    minimax_m3_vl_text ministral ministral3 mistral3 mlcd mlcd_vision_model mllama modernbert-decoder
    modernvbert molmo2_text moonshine moshi moss_transcribe_diarize moss_transcribe_diarize_audio mpt mra
    muse_glimmer muse_glimmer_text muse_spark muse_spark_text musicflamingo mvp nanochat nemo_speechlm
    nemotron_h nomic_bert olmo3 olmo_hybrid openai_privacy_filter ovis2 owlv2 pegasus_x persimmon
    phi4_multimodal pixio pixtral plbart pp_doclayout_v3 pp_doclayout_v4 qianfan_ocr qianfan_ocr_vision
    qwen2_5_vl qwen2_5_vl_text qwen2_audio qwen2_audio_encoder qwen2_vl qwen2_vl_text qwen3_5 qwen3_5_moe
    qwen3_5_moe_text qwen3_5_text qwen3_asr qwen3_next qwen3_vl qwen3_vl_moe qwen3_vl_moe_text qwen3_vl_text
    radio rf_detr roberta-prelayernorm roc_bert rt_detr rt_detr_v2 sam3 sam3_lite_text sam3_lite_text_text_model
    sam3_vision_model sam3_vit_model sam_hq_vision_model sam_vision_model seamless_m4t_v2 seed_oss
    siglip_vision_model smollm3 smolvlm smolvlm_vision solar_open speecht5 swiftformer t5gemma t5gemma2 tapas
    textnet timm_wrapper tipsv2 tipsv2_text_model tipsv2_vision_model ultrabert ultravbert unlimited_ocr
    vaultgemma vibevoice_asr video_llama_3 video_llava vipllava vitdet voxtral voxtral_encoder
    voxtral_realtime_encoder xlm xlm-roberta-xl yoso zaya reformer
    axk2 glm4_moe_lite glm_moe_dsa kimi_k25 mistral_large4 mistral_large4_text youtu longcat_flash glm46v glm4v
    glm4v_text glm_image glm_image_text glm_ocr glm_ocr_text glmga paddleocr_vl glm4v_moe glm4v_moe_text
    videomae vivit xclip mimi_encoder pocket_tts_audio_tokenizer_encoder pp_ocrv5_server_rec pp_ocrv6_small_rec
    pp_ocrv6_tiny_rec
    """.split()  # noqa: SIM905
)
