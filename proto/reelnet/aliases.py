"""What parameters are called in other programs and APIs: an unknown name is answered by the one that is meant."""

from __future__ import annotations

from collections.abc import Iterable

MAX_SQUASHED_CHARS = 60
_SIZE = ("width", "height")
_CALLED: dict[tuple[str, ...], str] = {
    ("prompt",): "text prompts text_prompt text_prompts description caption input inputs query positive_prompt",
    ("negative_prompt",): "negative neg_prompt negative_prompts uncond_prompt prompt_negative",
    ("num_images_per_prompt",): (
        "n n_images num_images num_outputs number_of_images image_count images count samples num_samples n_samples "
        "number_results batch_size batch_count n_iter"
    ),
    ("num_inference_steps",): (
        "steps step num_steps n_steps step_count inference_steps sampling_steps sample_steps ddim_steps "
        "diffusion_steps denoising_steps iterations"
    ),
    ("guidance_scale",): "cfg cfg_scale guidance scale cfg_value prompt_guidance unconditional_guidance_scale",
    ("image_guidance_scale",): "image_cfg image_cfg_scale img_cfg_scale image_guidance",
    _SIZE: "size image_size video_size resolution dimensions aspect_ratio ratio",
    ("width",): "w image_width size_x",
    ("height",): "h image_height size_y",
    ("seed",): "random_seed noise_seed rng_seed seeds generator",
    ("scheduler",): "sampler sampler_name sampler_index scheduler_name scheduler_type sampling_method solver",
    ("output_format",): "format response_format image_format file_format output_type file_type mime_type",
    ("strength",): "denoising_strength denoise denoise_strength prompt_strength image_strength init_image_strength",
    ("model_id",): (
        "model model_name model_version checkpoint sd_model sd_model_checkpoint engine engine_id version repo repo_id"
    ),
    ("loras",): "lora lora_weights lora_url lora_scale lora_path lora_paths lora_model lora_name adapter adapters",
    ("num_frames",): "frames frame_count n_frames number_of_frames video_length video_frames num_video_frames",
    ("num_frames", "fps"): "duration duration_s seconds length num_seconds",
    ("fps",): "frame_rate frames_per_second framerate output_fps target_fps playback_fps",
    ("motion_bucket_id",): "motion motion_bucket motion_score motion_strength",
    ("noise_aug_strength",): "cond_aug noise_aug noise_augmentation",
    ("decode_chunk_size",): "chunk_size decoding_t frames_at_once",
    ("video_codec",): "codec vcodec video_format",
    ("safety_check",): "safety_checker enable_safety_checker disable_safety_checker nsfw_check safety_tolerance",
    ("image",): (
        "images image_url image_urls input_image input_images init_image init_images source_image start_image "
        "first_frame image_base64 base64_image image_b64 image_data image_file img img_url picture photo file files"
    ),
    ("video",): (
        "videos video_url video_urls input_video source_video video_base64 video_data video_file clip file files movie"
    ),
}


def squashed(name: str) -> str:
    """A name without what people write differently: case, dashes, underscores, dots and blanks."""
    return "".join(c for c in name[:MAX_SQUASHED_CHARS].lower() if c.isalnum())


_MEANT: dict[str, list[tuple[str, ...]]] = {}
for _names, _called in _CALLED.items():
    for _name in _called.split():
        _MEANT.setdefault(squashed(_name), []).append(_names)


def meant(name: str, known: Iterable[str]) -> tuple[str, ...]:
    """The known names that another program's name stands for, or that it is but for its spelling; empty for none."""
    there = {squashed(each): each for each in known}
    squashed_name = squashed(name)
    if squashed_name in there:
        return (there[squashed_name],)
    of_known = frozenset(there.values())
    return next((names for names in _MEANT.get(squashed_name, ()) if of_known.issuperset(names)), ())
