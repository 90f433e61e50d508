"""The smallest model, by parameters, of every family (module of ``timm.models``); timm's own test models left out."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tests.networks import Network

#: Networks whose gradients take minutes or more than 6 GB at their own size: the sides of the image they get instead.
SMALLER: dict[str, int] = {"deepseek_vit_412m": 224, "gemma4_vit_167m": 256, "qwen3_vit_88m": 256}

#: Batches other than 1. torch 2.13 gives a wrong gradient of batch norm in eval mode on a CPU for a batch of 1 whose
#: gradient comes in transposed (``bn(x).flatten(2).transpose(1, 2)``): its bias's is not the sum of that gradient.
BATCH: dict[str, int] = {"levit_128s": 2}


def smallest() -> dict[str, str]:
    """Family -> its smallest model, found by building every model of timm without memory; takes minutes."""
    import timm

    found: dict[str, str] = {}
    for family in timm.list_modules():
        sizes: list[tuple[int, int, str]] = []
        for name in timm.list_models(module=family, exclude_filters="test_*"):
            with torch.device("meta"):
                module = timm.create_model(name, pretrained=False)
            side = timm.data.resolve_model_data_config(module)["input_size"][-1]
            sizes.append((sum(p.numel() for p in module.parameters()), side, name))
        if sizes:
            found[family] = min(sizes)[-1]
    return found


def names() -> Sequence[str]:
    """One model of every family."""
    return list(FAMILIES.values())


def build(name: str) -> Network:
    """A model at its default image size."""
    import timm

    options = {"img_size": SMALLER[name]} if name in SMALLER else {}
    module = timm.create_model(name, pretrained=False, **options)
    size = timm.data.resolve_model_data_config(module)["input_size"]
    if name in SMALLER:
        size = (size[0], SMALLER[name], SMALLER[name])
    return Network(module, (torch.randn(BATCH.get(name, 1), *size),), {})


#: Family -> model; written by ``python -c "from conformance.timm_models import smallest; print(smallest())"``.
FAMILIES: dict[str, str] = {
    "beit": "beit_base_patch16_224",
    "byoanet": "halonet_h1",
    "byobnet": "mobileone_s1",
    "cait": "cait_xxs24_224",
    "coat": "coat_tiny",
    "convit": "convit_tiny",
    "convmixer": "convmixer_768_32",
    "convnext": "convnext_zepto_rms",
    "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240",
    "csatv2": "csatv2",
    "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny",
    "davit": "davit_tiny",
    "deepseek_vit": "deepseek_vit_412m",
    "deit": "deit_tiny_patch16_224",
    "densenet": "densenet121",
    "dla": "dla46x_c",
    "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "mobilenetv2_035",
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0",
    "eva": "vit_tiny_patch16_dinov3_qkvb",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "gemma4_vit": "gemma4_vit_167m",
    "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_b",
    "hgnet": "hgnetv2_b0",
    "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s",
    "lowformer": "lowformer_b0",
    "mambaout": "mambaout_femto",
    "maxxvit": "maxvit_pico_rw_256",
    "metaformer": "poolformerv2_s12",
    "mlp_mixer": "gmlp_ti16_224",
    "mobilenetv3": "mobilenetv3_small_050",
    "mobilenetv5": "mobilenetv5_base",
    "mobilevit": "mobilevit_xxs",
    "mvitv2": "mvitv2_tiny",
    "naflexvit": "naflexvit_base_patch16_parfac_gap",
    "nasnet": "nasnetalarge",
    "nest": "nest_tiny",
    "nextvit": "nextvit_small",
    "nfnet": "nf_regnet_b0",
    "pit": "pit_ti_224",
    "pnasnet": "pnasnet5large",
    "pvt_v2": "pvt_v2_b0",
    "qwen3_vit": "qwen3_vit_88m",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m1",
    "res2net": "res2next50",
    "resnest": "resnest14d",
    "resnet": "resnet10t",
    "resnetv2": "resnetv2_18",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls42",
    "senet": "legacy_seresnet18",
    "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1",
    "sknet": "skresnet18",
    "starnet": "starnet_s050",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window16_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "tiny_vit": "tiny_vit_5m_224",
    "tnt": "tnt_s_legacy_patch16_224",
    "tresnet": "tresnet_m",
    "twins": "twins_svt_small",
    "vgg": "vgg11",
    "visformer": "visformer_tiny",
    "vision_transformer": "vit_tiny_patch16_224",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "vit_srelpos_small_patch16_224",
    "vision_transformer_sam": "samvit_base_patch16_224",
    "vitamin": "vitamin_small_224",
    "volo": "volo_d1_224",
    "vovnet": "ese_vovnet19b_slim_dw",
    "xception": "legacy_xception",
    "xception_aligned": "xception41p",
    "xcit": "xcit_nano_12_p8_224",
}
