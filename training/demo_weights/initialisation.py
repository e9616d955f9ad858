"""Starting weights from which a small SAM 2 trains on a CPU within hours.

Torch's default initialisation does not leave the plateau "answer nothing" in any time we
can afford. What does, measured on rough trainings of this network: Xavier weights, queries
and keys tied in the decoder's cross-attention (a prompt then looks where it points), and a
short warm-up of the decoder on synthetic features. Upscaling convolutions start as nearest
neighbour upscaling, so that no grid is printed on the masks (ICNR, Aitken et al. 2017).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam2model.mask_decoder import MaskDecoder
from sam2model.sam2 import SAM2
from training import prompts
from training.demo_weights.arithmetic import training_arithmetic
from training.losses import balanced_cross_entropy, dice_loss, mask_iou
from training.unroll import Answer, decode

_QUERY_KEY_GAIN = 1.5
_BRANCH_SCALE = 0.1
_WARM_UP_RATE = 7e-4
_FEATURE_SCALE = 0.7
_HIGH_RES_SCALE = 0.3  # of what is added inside the upscaling


def initialise(model: SAM2, seed: int) -> None:
    """Overwrite all weights, deterministically."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.ConvTranspose2d):
                _start_as_nearest(module)
            elif isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.5)
        trunk = model.image_encoder.trunk
        for position in map(trunk.get_parameter, ("pos_embed", "pos_embed_window")):
            nn.init.trunc_normal_(position, std=0.02)
        _tie_queries_and_keys(model.sam_mask_decoder)
        block: Any
        for block in model.memory_encoder.fuser.layers:
            # The reference's 1e-6 would leave these blocks idle for the whole of our run.
            nn.init.constant_(block.gamma, 0.1)
        # An undecided start, whatever the tokens say.
        score_head: Any = model.sam_mask_decoder.pred_obj_score_head
        nn.init.zeros_(score_head.layers[-1].weight)
        layer: Any
        for layer in model.memory_attention.layers:
            for branch in (
                layer.self_attn.out_proj,
                layer.cross_attn_image.out_proj,
                layer.linear2,
            ):
                branch.weight.mul_(_BRANCH_SCALE)


@torch.no_grad()
def calibrate_scales(model: SAM2, images: Tensor) -> None:
    """Give the image features the scale on which the decoder is warmed up.

    Nothing normalises Hiera's output, so the scale of untrained features is arbitrary, and
    masks are products of it: ``images`` ``[B, 3, S, S]`` decide the weights' factors.
    """
    encoder, decoder = model.image_encoder, model.sam_mask_decoder
    conv: Any
    for conv, features in zip(encoder.neck.convs, reversed(encoder.trunk(images)), strict=True):
        conv.conv.weight.mul_(_FEATURE_SCALE / conv.conv(features).std())
    stride_4, stride_8, _ = encoder(images)
    for conv, features in ((decoder.conv_s0, stride_4), (decoder.conv_s1, stride_8)):
        conv.weight.mul_(_HIGH_RES_SCALE / conv(features).std())


def warm_up_decoder(model: SAM2, steps: int, seed: int, batch: int = 24) -> list[float]:
    """Teach prompts their meaning: on random features, a box is itself and a click a disc.

    Trains everything behind the image encoder but the memory; returns the loss per step.
    """
    rng = np.random.default_rng([seed, 1])
    torch.manual_seed(seed)
    modules = (model.sam_prompt_encoder, model.sam_mask_decoder)
    parameters = [p for module in modules for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=_WARM_UP_RATE, betas=(0.9, 0.98))
    size, channels = model.image_size, model.variant.d_model
    history = []
    for step in range(steps):
        targets, points = _shapes(size, batch, rng)
        embedding = _FEATURE_SCALE * _smooth_noise(batch, channels, model.embedding_size)
        high_res = (
            _HIGH_RES_SCALE * torch.randn(batch, channels // 8, size // 4, size // 4),
            _HIGH_RES_SCALE * torch.randn(batch, channels // 4, size // 8, size // 8),
        )
        with training_arithmetic():
            answer = decode(model, embedding, high_res, points)
            loss = _warm_up_loss(answer, targets)
        for group in optimizer.param_groups:
            group["lr"] = _WARM_UP_RATE * min(1.0, (step + 1) / 50)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 2.0)
        optimizer.step()
        history.append(float(loss.detach()))
    return history


@torch.no_grad()
def fit_memory_norm(model: SAM2, images: Tensor) -> None:
    """Make the memory attention's output look like features without memory.

    Its last LayerNorm would hand the decoder features of another scale than those the
    decoder was trained on. Weight and bias are fitted per channel (least squares) between
    the normalised and the unconditioned features of ``images`` ``[B, 3, S, S]``.
    """
    embedding = model.encode_image(images).embedding.float()
    wanted = model.without_memory(embedding).permute(0, 2, 3, 1).flatten(0, 2)
    entering = embedding.flatten(2).mT + 0.1 * model.image_position
    normed = F.layer_norm(entering, entering.shape[-1:]).flatten(0, 1)
    mean_in, mean_out = normed.mean(0), wanted.mean(0)
    covariance = ((normed - mean_in) * (wanted - mean_out)).mean(0)
    slope = covariance / (normed - mean_in).square().mean(0).clamp(min=1e-6)
    model.memory_attention.norm.weight.copy_(slope)
    model.memory_attention.norm.bias.copy_(mean_out - slope * mean_in)


def _warm_up_loss(answer: Answer, targets: Tensor) -> Tensor:
    """Dice and balanced cross-entropy of all candidates, and the error of predicted IoUs.

    With the focal loss instead, "nothing" stays the answer for much longer: after 150 steps
    the IoU for a click was 0.04 to 0.09, against 0.28 to 0.41. Presence is left out:
    everything is present here, and its head would learn to say so always.
    """
    logits, ious = answer.candidates.float(), answer.ious.float()
    coarse = F.interpolate(targets[:, None].float(), size=logits.shape[-2:], mode="area")
    coarse = coarse.expand_as(logits)
    entropy = balanced_cross_entropy(logits, coarse).mean()
    with torch.no_grad():
        true_ious = mask_iou(logits > 0, coarse > 0.5)
    return entropy + dice_loss(logits, coarse).mean() + (ious - true_ious).abs().mean()


def _start_as_nearest(module: nn.ConvTranspose2d) -> None:
    """All sub-pixel kernels equal."""
    one = torch.empty(module.in_channels, module.out_channels)
    nn.init.xavier_uniform_(one)
    module.weight.copy_(one[:, :, None, None].expand_as(module.weight))
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def _tie_queries_and_keys(decoder: MaskDecoder) -> None:
    attentions: list[Any] = [decoder.transformer.final_attn_token_to_image]
    layer: Any
    for layer in decoder.transformer.layers:
        attentions += [layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
    for attention in attentions:
        attention.q_proj.weight.mul_(_QUERY_KEY_GAIN)
        attention.k_proj.weight.copy_(attention.q_proj.weight)


def _smooth_noise(batch: int, channels: int, side: int) -> Tensor:
    coarse = torch.randn(batch, channels, max(2, side // 4), max(2, side // 4))
    smooth = F.interpolate(coarse, size=(side, side), mode="bilinear", align_corners=False)
    return smooth + 0.3 * torch.randn(batch, channels, side, side)


def _shapes(size: int, batch: int, rng: np.random.Generator) -> tuple[Tensor, prompts.Points]:
    """Boxes with box prompts, or discs with clicks at their centres."""
    axis = np.arange(size)
    masks = np.zeros((batch, size, size), bool)
    box = rng.random() < 0.5
    for mask in masks:
        if box:
            low = rng.uniform(0, 0.75, 2) * size
            high = np.minimum(low + rng.uniform(0.06, 0.6, 2) * size, size)
            mask[int(low[1]) : int(high[1]) + 1, int(low[0]) : int(high[0]) + 1] = True
        else:
            centre = rng.uniform(0.05, 0.95, 2) * size
            distance = np.hypot(axis[None] - centre[0], axis[:, None] - centre[1])
            mask[:] = distance < 0.12 * size
    points = prompts.boxes(masks, None) if box else prompts.clicks(masks, None)
    return torch.from_numpy(masks), points
