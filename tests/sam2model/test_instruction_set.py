"""On a CPU without AVX-512 bfloat16 gives the same mask, more slowly, and nobody gets it unasked.

Torch reads what it may use of a CPU when it is loaded, hence a process of its own.
"""

import os
import subprocess
import sys

import pytest
import torch

from sam2model.matrix_product import onednn_multiplies

HELD_TO_AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
CLICK = """
import numpy as np
import torch
from sam2model import ImagePredictor, build_model
from sam2model.matrix_product import onednn_multiplies

rows, columns = np.mgrid[:150, :200]
inside = (columns - 80) ** 2 + (rows - 60) ** 2 <= 30**2
image = np.where(inside[..., None], (220, 40, 40), (40, 90, 60)).astype(np.uint8)
predictor = ImagePredictor(build_model("demo", device="cpu", dtype="bfloat16"))
found = predictor.predict(predictor.embed(image), points=[[80, 60]]).masks[0]
print((found & inside).sum() / (found | inside).sum() > 0.95)
print(build_model("demo", device="cpu").compute_dtype)
print(onednn_multiplies(torch.float32), onednn_multiplies(torch.bfloat16))
"""


def test_a_click_in_bfloat16_held_to_avx2():
    done = subprocess.run(
        [sys.executable, "-c", CLICK],
        env=os.environ | HELD_TO_AVX2,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.stdout.split() == ["True", "torch.float32", "True", "False"], done.stderr


@pytest.mark.filterwarnings("ignore:TF32")  # of which torch speaks wherever these flags are set
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_onednn_can_be_switched_off(dtype):
    with torch.backends.mkldnn.flags(enabled=False):
        assert not onednn_multiplies(dtype)


def test_onednn_is_not_used_for_other_dtypes():
    assert not onednn_multiplies(torch.float16)
    assert not onednn_multiplies(torch.float64)
