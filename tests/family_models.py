"""Tiny random models of every latent family, saved as the published repositories lay theirs out.

Real classes; schedulers with the published settings. All make images of 16 x 16 pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.family_parts import (
    CONTENT_PARTS,
    clip,
    flow_scheduler,
    gemma_tokenizer,
    qwen_tokenizer,
    t5,
    t5_tokenizer,
    unet,
    vae,
)
from tests.models import clip_tokenizer

BETAS: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}
FLOW_VAE = {
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}


def write(kind: str, folder: Path) -> Path:
    """Save the model of a `kind` in KINDS; random, but the same in every run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        KINDS[kind]().save_pretrained(folder)
    return folder


def _sd(text_act: str, pad: str | None, options: dict[str, Any], scheduler: Any) -> Any:
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    network = UNet2DConditionModel(**unet(16), **options)
    return StableDiffusionPipeline(
        vae=vae(scaling_factor=0.18215),
        text_encoder=clip("CLIPTextModel", hidden_act=text_act),
        tokenizer=clip_tokenizer(pad),
        unet=network,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sd15() -> Any:
    from diffusers import PNDMScheduler

    scheduler = PNDMScheduler(**{k: v for k, v in BETAS.items() if k != "clip_sample"})
    return _sd("quick_gelu", None, {}, scheduler)


def _sd21() -> Any:
    from diffusers import DDIMScheduler

    settings = {k: v for k, v in BETAS.items() if k != "skip_prk_steps"}
    scheduler = DDIMScheduler(prediction_type="v_prediction", **settings)
    return _sd("gelu", "!", {"use_linear_projection": True, "upcast_attention": True}, scheduler)


def _sdxl(zeros: bool = True, **statistics: Any) -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    unused = ("clip_sample", "set_alpha_to_one", "skip_prk_steps")
    return StableDiffusionXLPipeline(
        vae=vae(scaling_factor=0.13025, force_upcast=True, **statistics),
        text_encoder=clip("CLIPTextModel", hidden_act="quick_gelu"),
        text_encoder_2=clip("CLIPTextModelWithProjection", hidden_act="gelu"),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer("!"),
        unet=UNet2DConditionModel(
            **unet(32),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 16,
        ),
        scheduler=EulerDiscreteScheduler(
            timestep_spacing="leading", **{k: v for k, v in BETAS.items() if k not in unused}
        ),
        force_zeros_for_empty_prompt=zeros,
    )


def _sdxl_other() -> Any:
    """The rarer settings: an encoded empty prompt, a VAE with statistics of its own."""
    statistics = {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [1.5, 0.5, 2.0, 1.0]}
    return _sdxl(zeros=False, **statistics)


def _sd3(with_t5: bool = True) -> Any:
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    return StableDiffusion3Pipeline(
        vae=vae(**FLOW_VAE),
        text_encoder=clip("CLIPTextModelWithProjection", hidden_act="quick_gelu"),
        text_encoder_2=clip("CLIPTextModelWithProjection", hidden_act="gelu"),
        text_encoder_3=t5("T5EncoderModel") if with_t5 else None,
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer("!"),
        tokenizer_3=t5_tokenizer() if with_t5 else None,
        transformer=SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=40,
            caption_projection_dim=32,
            pooled_projection_dim=32,
            pos_embed_max_size=16,
            qk_norm="rms_norm",
            dual_attention_layers=(0,),
        ),
        scheduler=flow_scheduler(shift=3.0),
    )


def _sd3_without_t5() -> Any:
    return _sd3(with_t5=False)


def _flux() -> Any:
    from diffusers import FluxPipeline, FluxTransformer2DModel

    return FluxPipeline(
        vae=vae(**FLOW_VAE),
        text_encoder=clip("CLIPTextModel", hidden_act="quick_gelu"),
        text_encoder_2=t5("T5EncoderModel"),
        tokenizer=clip_tokenizer(),
        tokenizer_2=t5_tokenizer(),
        transformer=FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=40,
            pooled_projection_dim=16,
            guidance_embeds=True,
            axes_dims_rope=(4, 4, 8),
        ),
        scheduler=flow_scheduler(shift=3.0, use_dynamic_shifting=True),
    )


def _chroma() -> Any:
    from diffusers import ChromaPipeline, ChromaTransformer2DModel

    return ChromaPipeline(
        vae=vae(**FLOW_VAE),
        text_encoder=t5("T5EncoderModel"),
        tokenizer=t5_tokenizer(),
        transformer=ChromaTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=40,
            axes_dims_rope=(4, 4, 8),
            approximator_num_channels=16,
            approximator_hidden_dim=32,
            approximator_layers=1,
        ),
        scheduler=flow_scheduler(shift=3.0, use_dynamic_shifting=True),
    )


def _qwen3(kind: str, layers: int) -> Any:
    import transformers

    return getattr(transformers, kind)(
        transformers.Qwen3Config(
            vocab_size=len(qwen_tokenizer()),
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=4,
        )
    )


def _flux2_network(width: int, guided: bool) -> Any:
    from diffusers import Flux2Transformer2DModel

    return Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=width,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guided,
    )


def _flux2_vae() -> Any:
    from diffusers import AutoencoderKLFlux2

    autoencoder = AutoencoderKLFlux2(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    )
    with torch.no_grad():
        autoencoder.bn.running_mean.normal_()
        autoencoder.bn.running_var.uniform_(0.5, 2)
    return autoencoder


def _flux2(distilled: bool = False) -> Any:
    """[klein]: a Qwen3 text encoder, guidance by a second pass, or none where distilled."""
    from diffusers import Flux2KleinPipeline

    return Flux2KleinPipeline(
        vae=_flux2_vae(),
        text_encoder=_qwen3("Qwen3ForCausalLM", 27),
        tokenizer=qwen_tokenizer(),
        transformer=_flux2_network(24, guided=False),
        scheduler=flow_scheduler(shift=3.0, use_dynamic_shifting=True),
        is_distilled=distilled,
    )


def _flux2_distilled() -> Any:
    return _flux2(distilled=True)


def _flux2_dev() -> Any:
    """[dev]: a Mistral 3 text encoder, and a network that is told the guidance scale."""
    from diffusers import Flux2Pipeline
    from transformers import (
        Mistral3Config,
        Mistral3ForConditionalGeneration,
        PixtralImageProcessor,
        PixtralProcessor,
    )

    tokenizer = qwen_tokenizer(CONTENT_PARTS, images=True)
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "head_dim": 4}
    text = {"model_type": "mistral", "vocab_size": len(tokenizer), "num_hidden_layers": 30}
    vision = {"model_type": "pixtral", "num_hidden_layers": 1, "image_size": 16, "patch_size": 8}
    config = Mistral3Config(
        text_config=sizes | text | {"num_key_value_heads": 1}, vision_config=sizes | vision
    )
    processor = PixtralProcessor(
        PixtralImageProcessor(), tokenizer, chat_template=tokenizer.chat_template
    )
    return Flux2Pipeline(
        vae=_flux2_vae(),
        text_encoder=Mistral3ForConditionalGeneration(config),
        tokenizer=processor,
        transformer=_flux2_network(24, guided=True),
        scheduler=flow_scheduler(shift=3.0, use_dynamic_shifting=True),
    )


def _qwenimage() -> Any:
    from diffusers import AutoencoderKLQwenImage, QwenImagePipeline, QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokenizer = qwen_tokenizer()
    text = {"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 16}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6}
    vision = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16}
    config = Qwen2_5_VLConfig(
        text_config=text | heads | {"rope_parameters": rope},
        vision_config=vision | {"out_hidden_size": 16},
    )
    return QwenImagePipeline(
        vae=AutoencoderKLQwenImage(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 2],
            num_res_blocks=1,
            temperal_downsample=[False],
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.5, 0.5, 2.0, 1.0],
        ),
        text_encoder=Qwen2_5_VLForConditionalGeneration(config),
        tokenizer=tokenizer,
        transformer=QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(4, 4, 8),
        ),
        scheduler=flow_scheduler(
            use_dynamic_shifting=True,
            base_shift=0.5,
            max_shift=0.9,
            max_image_seq_len=8192,
            shift=1.0,
            shift_terminal=0.02,
        ),
    )


def _sana() -> Any:
    from diffusers import (
        AutoencoderDC,
        DPMSolverMultistepScheduler,
        SanaPipeline,
        SanaTransformer2DModel,
    )
    from transformers import Gemma2Config, Gemma2Model

    tokenizer = gemma_tokenizer()
    text = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
    )
    blocks = ("ResBlock", "ResBlock")
    return SanaPipeline(
        vae=AutoencoderDC(
            latent_channels=4,
            attention_head_dim=2,
            encoder_block_types=blocks,
            decoder_block_types=blocks,
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            encoder_qkv_multiscales=((), ()),
            decoder_qkv_multiscales=((), ()),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
            downsample_block_type="conv",
            upsample_block_type="interpolate",
            decoder_act_fns="silu",
            scaling_factor=0.41407,
        ),
        text_encoder=Gemma2Model(text),
        tokenizer=tokenizer,
        transformer=SanaTransformer2DModel(
            patch_size=1,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            num_attention_heads=2,
            attention_head_dim=8,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=8,
            sample_size=8,
        ),
        scheduler=DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )


def _zimage() -> Any:
    from diffusers import ZImagePipeline, ZImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    tokenizer = qwen_tokenizer()
    text = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    network = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=[640, 32, 32],
    )
    with torch.no_grad():  # saved from uninitialised memory or zeros otherwise
        for parameter in (network.x_pad_token, network.cap_pad_token):
            parameter.normal_()
    return ZImagePipeline(
        vae=vae(**FLOW_VAE),
        text_encoder=Qwen3Model(text),
        tokenizer=tokenizer,
        transformer=network,
        scheduler=flow_scheduler(shift=6.0),
    )


def _wan() -> Any:
    from diffusers import (
        AutoencoderKLWan,
        UniPCMultistepScheduler,
        WanPipeline,
        WanTransformer3DModel,
    )

    return WanPipeline(
        vae=AutoencoderKLWan(
            base_dim=3,
            z_dim=16,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
        ),
        text_encoder=t5("UMT5EncoderModel"),
        tokenizer=t5_tokenizer(),
        transformer=WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=16,
            out_channels=16,
            text_dim=40,
            freq_dim=16,
            ffn_dim=32,
            num_layers=1,
            rope_max_seq_len=32,
        ),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )


KINDS: dict[str, Callable[[], Any]] = {
    "sd15": _sd15,
    "sd21": _sd21,
    "sdxl": _sdxl,
    "sdxl-other": _sdxl_other,
    "sd3": _sd3,
    "sd3-without-t5": _sd3_without_t5,
    "flux": _flux,
    "chroma": _chroma,
    "flux2": _flux2,
    "flux2-distilled": _flux2_distilled,
    "flux2-dev": _flux2_dev,
    "qwenimage": _qwenimage,
    "sana": _sana,
    "zimage": _zimage,
    "wan": _wan,
}
