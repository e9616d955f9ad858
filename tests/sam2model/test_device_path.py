"""The path of a tracked frame on a GPU, as far as it can be checked without one.

Nothing in it may make the host wait for the device. The network runs on torch's ``meta`` device,
which has shapes and no values: reading one, or branching on one, fails. Whatever else would wait
(host tensors that come in, or go out) is refused by the modes below.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.speed import launches
from benchmarks.support.clips import MovingDiscs
from benchmarks.support.launches import META, MetaTransfer, meta_model, tensors, transferring
from sam2model import VideoTracker, build_model, transfer, video_tracker
from sam2model.sam2 import SAM2, size_step
from sam2model.transfer import CudaTransfer, Download, Transfer
from sam2model.variants import VARIANTS

NAMES = ["demo", "sam2.1_hiera_tiny", "edgetam"]
CLIP = MovingDiscs(10, 96)
# Results whose shape depends on values, which the host then has to know.
WAITING = ("nonzero", "masked_select", "unique", "bincount", "_local_scalar_dense", "equal")


class Waited(AssertionError):
    """The host would have to wait."""


class NoHostTensors(TorchDispatchMode):
    """Refuses copies from and to the host, but for those that do not wait."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name.startswith(WAITING):
            raise Waited(f"{func} waits for its values")
        out = func(*args, **kwargs)
        given = {each.device.type for each in tensors((args, kwargs)) if each.ndim}
        found = {each.device.type for each in tensors(out)}
        if META.type in given and "cpu" in found:
            raise Waited(f"{func} copies to the host and waits")
        non_blocking = any(each is True for each in (*args, *kwargs.values()))
        if META.type in found and "cpu" in given and not non_blocking:
            raise Waited(f"{func} copies to the device and waits")
        return out


class NoValues(TorchFunctionMode):
    """Refuses tensors made of Python's numbers on the device: a copy that waits."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        made = func in (torch.tensor, torch.as_tensor, torch.asarray)
        if made and kwargs.get("device") is not None:
            raise Waited(f"{func.__name__} copies to the device and waits")
        return func(*args, **kwargs)


@pytest.fixture
def copies() -> Iterator[MetaTransfer]:
    with transferring() as copies:
        yield copies


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_nothing_in_a_tracked_frame_waits_for_the_device(name: str, copies: MetaTransfer) -> None:
    tracker = VideoTracker(meta_model(name, max(64, size_step(VARIANTS[name]))), CLIP)
    tracker.prompt(0, "a", points=[[30, 30]])
    tracker.prompt(2, "b", box=[40, 20, 80, 60])
    tracker.prompt(4, "b", mask=np.ones((96, 96), bool))
    before = copies.downloads
    with NoHostTensors(), NoValues():
        frames = [step.frame for step in tracker.propagate(start=0)]
    assert frames == list(range(len(CLIP)))
    assert copies.downloads - before == len(CLIP)


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.new_zeros(3).nonzero(),
        lambda x: x[x > 0],
        lambda x: x + torch.zeros(3).to(META),
        lambda x: torch.tensor([1.0, 2.0], device=META),
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).all()),
        lambda x: x.cpu(),
    ],
)
def test_what_waits_is_found(wait: Callable[[Tensor], Any]) -> None:
    """The modes above find each kind of waiting."""
    x = torch.zeros(3, device=META)
    with pytest.raises((Waited, RuntimeError, NotImplementedError)), NoHostTensors(), NoValues():
        wait(x)


# How much the host has to launch. These are floors of what was reached, with a little room: small
# networks on a fast GPU take as long as their launches.


@pytest.mark.parametrize("objects", [1, 8])
def test_launches_of_a_tracked_frame(objects: int, copies: MetaTransfer) -> None:
    found = launches.tracked_frame(meta_model("sam2.1_hiera_tiny"), copies, objects)
    assert found.launches <= 500
    assert found.downloads == 1


def test_launches_of_pictures_and_prompts(copies: MetaTransfer) -> None:
    model = meta_model("sam2.1_hiera_tiny")
    for found, most, downloads in (
        (launches.embedding(model, copies), 185, 0),
        (launches.click(model, copies), 150, 1),
        (launches.boxes(model, copies, 32), 170, 1),
    ):
        assert found.launches <= most
        assert found.downloads == downloads


# When downloads are waited for.


class LoggedTransfer(Transfer):
    """Notes what is begun and what is waited for."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self._frame = -1

    def upload(self, picture: NDArray[np.uint8]) -> Tensor:
        self._frame += 1
        self.log.append(f"begin {self._frame}")
        return super().upload(picture)

    def download(self, *tensors: Tensor) -> Download:
        name = f"wait for {self._frame}"
        return Download(tensors, lambda: self.log.append(name))


@pytest.fixture(scope="module")
def model() -> SAM2:
    return build_model("demo", device="cpu", image_size=64)


def tracked(tracker: VideoTracker) -> Iterable[Any]:
    tracker.prompt(0, "a", points=[[30, 30]])
    return tracker.propagate(start=0, count=5)


def test_a_frame_is_waited_for_after_the_next_one_was_begun(
    model: SAM2, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = LoggedTransfer()
    expected = list(tracked(VideoTracker(model, CLIP)))
    monkeypatch.setattr(video_tracker, "transfer_for", lambda device: copies)
    found = list(tracked(VideoTracker(model, CLIP)))
    for frame in range(1, 4):  # frame 0 is prompted; nothing of it is kept but on the device
        assert copies.log.index(f"wait for {frame}") > copies.log.index(f"begin {frame + 1}")
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.masks, other.masks)
        np.testing.assert_array_equal(one.logits, other.logits)


def test_a_prompt_builds_on_the_frame_tracked_last(
    model: SAM2, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer may still be on its way when the prompt comes."""
    answers = []
    for read in (True, False):
        tracker = VideoTracker(model, CLIP)
        for step in tracked(tracker):
            if read:
                assert step.masks.shape == (1, 96, 96)
            if step.frame == 3:
                break
        answers.append(tracker.prompt(3, "a", points=[[50, 30]]))
        answers.append(tracker.prompt(1, "a", points=[[50, 30]]))
    np.testing.assert_array_equal(answers[0].logits, answers[2].logits)
    np.testing.assert_array_equal(answers[1].logits, answers[3].logits)
    untracked = VideoTracker(model, CLIP).prompt(3, "a", points=[[50, 30]])
    assert (answers[0].logits != untracked.logits).any()


# Streams and pinned memory, with a scripted ``torch.cuda``.


class ScriptedCuda:
    """Stands for streams; notes the order of what they are asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.names = iter(("up", "down"))
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(self, next(self.names)))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(self, "main"))
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
        for name in ("record_stream", "pin_memory"):
            monkeypatch.setattr(Tensor, name, self._noted(name))
        monkeypatch.setattr(transfer, "_pinned_like", torch.empty_like)
        copy = Tensor.copy_

        def noted_copy(target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
            self.log.append("copy" if non_blocking else "copy and wait")
            return copy(target, source)

        monkeypatch.setattr(Tensor, "copy_", noted_copy)

    def _noted(self, name: str) -> Callable[..., Tensor]:
        def call(tensor: Tensor, stream: Any = "") -> Tensor:
            self.log.append(f"{name} {stream}".strip())
            return tensor

        return call


class Stream:
    def __init__(self, cuda: ScriptedCuda, name: str) -> None:
        self._cuda, self._name = cuda, name

    def __str__(self) -> str:
        return self._name

    def __enter__(self) -> None:
        self._cuda.log.append(f"on {self}")

    def __exit__(self, *_: object) -> None:
        self._cuda.log.append(f"off {self}")

    def wait_stream(self, other: "Stream") -> None:
        self._cuda.log.append(f"{self} waits for {other}")

    def record_event(self) -> "Stream":
        self._cuda.log.append(f"event on {self}")
        return self

    def synchronize(self) -> None:
        self._cuda.log.append(f"host waits for {self}")


def test_copies_run_on_their_own_streams_and_the_host_waits_only_to_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = ScriptedCuda(monkeypatch)
    copies = CudaTransfer(torch.device("cpu"))
    copies.upload(CLIP[0])
    assert cuda.log == ["pin_memory", "on up", "off up", "main waits for up", "record_stream main"]
    cuda.log.clear()
    mask = torch.ones(2, 3, dtype=torch.bool)
    download = copies.download(mask, torch.arange(3))
    assert cuda.log == [
        "down waits for main",
        "on down",
        *["copy"] * 2,
        *["record_stream down"] * 2,
        "event on down",
        "off down",
    ]
    released: list[int] = []
    held = {
        "allocated_bytes.current": transfer.PINNED_BYTES + 9,
        "active_bytes.current": 8,
    }
    monkeypatch.setattr(torch.cuda, "host_memory_stats", lambda: held)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: released.append(1), raising=False)
    copies.upload(CLIP[0])
    held["allocated_bytes.current"] -= 1
    copies.upload(CLIP[0])
    assert len(released) == 1  # where more than the bound is pinned and free
    cuda.log.clear()
    for _ in range(2):
        masks, numbers = download.arrays()
        assert masks.all()
        assert numbers.tolist() == [0, 1, 2]
    assert cuda.log == ["host waits for down"]
