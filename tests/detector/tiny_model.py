"""A Grounding DINO and an OWLv2 of random weights, small enough to answer in a moment, in a folder
as ``save_pretrained`` writes it."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertTokenizer,
    CLIPTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessorPil,
    GroundingDinoProcessor,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessorPil,
    Owlv2Processor,
    SwinConfig,
)

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (".", "person", "dog", "red", "car", "cat", "flower", "animal")


def write_grounding_dino(folder: Path) -> None:
    """Write the model; the same weights every time."""
    torch.manual_seed(7)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join([*SPECIAL, *WORDS]))
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            image_size=64,
            embed_dim=8,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 2, 2],
            window_size=2,
            out_features=["stage2", "stage3", "stage4"],
        ),
        text_config=BertConfig(
            vocab_size=len(SPECIAL) + len(WORDS),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=256,
        ),
        d_model=32,
        encoder_layers=1,
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_layers=2,
        decoder_ffn_dim=16,
        decoder_attention_heads=2,
        num_queries=6,
    )
    model = GroundingDinoForObjectDetection(config)
    # Every word is as likely as any other, whatever the machine computes: all find something.
    with torch.no_grad():
        model.model.decoder.layer_norm.weight.zero_()
        model.model.decoder.layer_norm.bias.zero_()
    model.save_pretrained(folder)
    size = {"shortest_edge": 64, "longest_edge": 96}
    processor = GroundingDinoProcessor(
        GroundingDinoImageProcessorPil(size=size), BertTokenizer(vocab=str(vocabulary))
    )
    processor.save_pretrained(folder)


def write_owl(folder: Path) -> None:
    """Write the model; the same weights every time."""
    torch.manual_seed(7)
    letters = [each + end for each in "abcdefghijklmnopqrstuvwxyz" for end in ("", "</w>")]
    # A text that begins with 0 counts as none; it is pooled where the highest number stands.
    first = ["!", "<|startoftext|>"]
    vocabulary = {each: number for number, each in enumerate([*first, *letters])}
    vocabulary["<|endoftext|>"] = len(vocabulary)
    small = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    last = vocabulary["<|endoftext|>"]
    text = {**small, "vocab_size": last + 1, "eos_token_id": last, "bos_token_id": 1}
    vision = {**small, "image_size": 32, "patch_size": 16}
    Owlv2ForObjectDetection(
        Owlv2Config(text_config=text, vision_config=vision, projection_dim=16)
    ).save_pretrained(folder)
    processor = Owlv2Processor(
        Owlv2ImageProcessorPil(size={"height": 32, "width": 32}),
        CLIPTokenizer(vocab=vocabulary, merges=[]),
    )
    processor.save_pretrained(folder)
