"""Images decoded in other processes: the same pixels, and no fault that spreads."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.media.errors import MediaError, Reason
from backend.pixels.sandbox import image_decoding
from backend.pixels.sandbox.image_decoding import ImageDecoder
from backend.pixels.sandbox.process import DecodingProcess
from backend.threads.caller import keep_caller, serving
from tests.pixels.in_process import decoded_image
from tests.pixels.sandbox.conftest import FAULTY
from tests.processes import running
from tests.waiting import PATIENCE, until


@pytest.fixture(scope="module")
def decoder() -> Iterator[ImageDecoder]:
    made = ImageDecoder(max_pixels=1_000_000, warm=1, seconds=PATIENCE)
    yield made
    made.close()


@pytest.fixture
def faulty() -> Iterator[Callable[..., ImageDecoder]]:
    made: list[ImageDecoder] = []

    def make(**options: float) -> ImageDecoder:
        defaults = {"max_pixels": 1_000_000, "warm": 1, "seconds": PATIENCE, "module": FAULTY}
        made.append(ImageDecoder(**{**defaults, **options}))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        one.close()


def pids(decoder: ImageDecoder) -> list[int]:
    return [process.pid for process in decoder._idle]


KINDS = [("PNG", "RGBA"), ("PNG", "I;16"), ("PNG", "P"), ("PNG", "1"), ("JPEG", "RGB"),
         ("JPEG", "CMYK"), ("JPEG", "L"), ("GIF", "P"), ("BMP", "RGB"), ("TIFF", "F"),
         ("TIFF", "I;16"), ("WEBP", "RGBA"), ("AVIF", "RGB"), ("JPEG2000", "RGB"),
         ("PPM", "RGB")]  # fmt: skip


@pytest.mark.parametrize(("kind", "mode"), KINDS)
def test_same_pixels_as_in_this_process(
    decoder: ImageDecoder, photo: Path, tmp_path: Path, kind: str, mode: str
) -> None:
    path = tmp_path / "image"
    source = Image.open(photo)
    wide = mode in ("I;16", "F")
    image = source.convert("I" if mode == "I;16" else mode) if wide else source.convert(mode)
    (image.convert("I;16") if mode == "I;16" else image).save(path, kind)
    pixels = decoder.load(path)
    assert np.array_equal(pixels, decoded_image(path))
    assert pixels.flags.writeable
    assert pixels.flags.c_contiguous


def test_turned_upright(decoder: ImageDecoder, photo: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    Image.open(photo).save(tmp_path / "turned.jpg", exif=exif)
    assert decoder.load(tmp_path / "turned.jpg").shape == (400, 300, 3)


def test_any_file_object_is_read(decoder: ImageDecoder) -> None:
    """Of several times the size that goes along with the request."""
    noise = np.random.default_rng(0).integers(0, 255, (1000, 1000, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "BMP")
    assert len(stream.getvalue()) > 2 << 20
    assert np.array_equal(decoder.load(stream), noise)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", Reason.NOT_AN_IMAGE),
        (b"<!doctype html><p>login", Reason.NOT_AN_IMAGE),
        (b"<svg xmlns=''/>", Reason.NOT_AN_IMAGE),
        (b"P6 1001 1000 255\n", Reason.TOO_LARGE),
    ],
)
def test_same_errors_as_in_this_process(
    decoder: ImageDecoder, photo: Path, body: bytes, reason: Reason
) -> None:
    before = pids(decoder)
    with pytest.raises(MediaError) as caught:
        decoder.load(io.BytesIO(body))
    assert caught.value.reason is reason
    assert caught.value.sentence
    assert caught.value.hint
    assert decoder.load(photo).shape == (300, 400, 3)
    assert pids(decoder) == before  # an unusable image is no reason to begin anew


def test_missing_file(decoder: ImageDecoder, tmp_path: Path) -> None:
    with pytest.raises(MediaError) as caught:
        decoder.load(tmp_path / "none")
    assert caught.value.reason is Reason.STORAGE
    assert str(tmp_path) not in str(caught.value)


class Broken(io.BytesIO):
    """A source that breaks off; it may take its time before."""

    def __init__(self, size: int, good: int) -> None:
        super().__init__(b"P6 1000 300 255\n" + bytes(size))
        self.good = good

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() >= self.good:
            raise MediaError("The storage is gone.", reason=Reason.UNREACHABLE)
        return super().read(size)


@pytest.mark.parametrize("good", [0, 1 << 20])
def test_what_the_source_raises_is_raised(faulty: Callable, photo: Path, good: int) -> None:
    decoder = faulty(max_pixels=10**8)
    stream = Broken(3 << 20, good)
    stream.seek(0)
    stream.write(b"P6 1000 1000 255\n")
    with pytest.raises(MediaError, match="storage is gone"):
        decoder.load(stream)
    assert decoder.load(photo).shape == (300, 400, 3)
    assert decoder.failures == 0


FAULTS = {
    "hang": "too long",
    "spin": "too long",
    "crash": "crash",
    "abort": "crash",
    "eat": "more memory",
    "killed": "more memory",
    "circle": "too long",
    "exit": "crash",
    "defect": "log says why",
    "lie": "log says why",
    "nonsense": "log says why",
    "negative": "log says why",
    "greedy": "log says why",
    "deaf": "too long",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_next_image_is_decoded_after(
    faulty: Callable, photo: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = faulty()
    assert decoder.load(photo).shape == (300, 400, 3)
    [victim] = pids(decoder)
    started = time.monotonic()
    with monkeypatch.context() as patched, pytest.raises(MediaError) as caught:
        if FAULTS[fault] == "too long":
            patched.setattr(decoder, "_seconds", 0.7)
        decoder.load(io.BytesIO(f"{fault}:".encode() + bytes(1000)))
    assert FAULTS[fault] in caught.value.sentence
    assert time.monotonic() - started < PATIENCE
    assert caught.value.hint
    assert not running(victim)
    assert decoder.failures == 1
    assert decoder.load(photo).shape == (300, 400, 3)


def test_what_a_process_says_is_one_short_line(faulty: Callable) -> None:
    with pytest.raises(MediaError, match=r"It failed\.\?2026") as caught:
        faulty().load(io.BytesIO(b"shout:"))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 500
    assert caught.value.reason is Reason.DAMAGED


def test_others_do_not_wait_for_one_that_hangs(faulty: Callable, photo: Path) -> None:
    decoder = faulty()
    failures: list[MediaError] = []

    def hang() -> None:
        try:
            decoder.load(io.BytesIO(b"hang:"))
        except MediaError as error:
            failures.append(error)

    decoder.load(photo)
    threads = [threading.Thread(target=hang) for _ in range(2)]
    for thread in threads:
        thread.start()
    started = time.monotonic()
    while time.monotonic() - started < 1 or len(decoder._busy) < 2:
        assert decoder.load(photo).shape == (300, 400, 3)
    assert len(decoder._busy) == 2
    decoder.close()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert len(failures) == 2


def test_too_many_at_once_wait_for_their_turn(faulty: Callable, photo: Path) -> None:
    decoder = faulty(most=1)
    decoder.load(photo)
    with ThreadPoolExecutor(2) as threads:
        hanging = threads.submit(decoder.load, io.BytesIO(b"hang:"))
        [process] = until(lambda: list(decoder._busy))
        waiting = threads.submit(decoder.load, photo)
        with pytest.raises(TimeoutError):
            waiting.result(0.3)
        process.kill()
        assert waiting.result(PATIENCE).shape == (300, 400, 3)
        with pytest.raises(MediaError):
            hanging.result(PATIENCE)


def test_a_project_whose_images_hang_leaves_processes_to_the_others(
    faulty: Callable, photo: Path
) -> None:
    decoder = faulty(most=4)
    with ThreadPoolExecutor(6) as threads:
        with serving(project="slow"):
            hangs = [keep_caller(decoder.load) for _ in range(6)]
        hanging = [threads.submit(hang, io.BytesIO(b"hang:")) for hang in hangs]
        held = until(lambda: list(decoder._busy) if len(decoder._busy) == 2 else [])
        for project in ("another", "a third"):
            with serving(project=project):
                assert decoder.load(photo).shape == (300, 400, 3)
        assert list(decoder._busy) == held
        decoder.close()
        for each in hanging:
            with pytest.raises(MediaError):
                each.result(PATIENCE)


def test_one_whose_turn_does_not_come_is_told(faulty: Callable, photo: Path) -> None:
    decoder = faulty(most=0, warm=0, seconds=0.1)
    with pytest.raises(MediaError, match="too many images to decode at once") as caught:
        decoder.load(photo)
    assert caught.value.reason is Reason.TIMEOUT


class Together(io.BytesIO):
    """A file that is read when another one is, too."""

    def __init__(self, data: bytes, both: threading.Barrier) -> None:
        super().__init__(data)
        self._both: threading.Barrier | None = both

    def read(self, size: int | None = -1) -> bytes:
        both, self._both = self._both, None
        if both is not None:
            both.wait(PATIENCE)
        return super().read(size)


def test_what_was_begun_for_many_images_stays_for_a_while(
    faulty: Callable, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = faulty()

    def load_two() -> None:
        both = threading.Barrier(2)
        with ThreadPoolExecutor(2) as pool:
            files = [Together(photo.read_bytes(), both) for _ in range(2)]
            assert [each.shape for each in pool.map(decoder.load, files)] == [(300, 400, 3)] * 2

    load_two()
    begun = set(pids(decoder))
    assert len(begun) == 2
    load_two()
    assert set(pids(decoder)) == begun  # none was begun for one image and ended after it
    monkeypatch.setattr(image_decoding, "_SPARE_SECONDS", 0.0)
    decoder.load(photo)
    assert len(pids(decoder)) == 1
    until(lambda: sum(running(pid) for pid in begun) == 1)


def test_an_idle_process_that_died_is_replaced(decoder: ImageDecoder, photo: Path) -> None:
    decoder.load(photo)
    for pid in pids(decoder):
        os.kill(pid, signal.SIGKILL)
        while running(pid):
            time.sleep(0.01)
    assert decoder.load(photo).shape == (300, 400, 3)


def killed_unnoticed(monkeypatch: pytest.MonkeyPatch, processes: list[DecodingProcess]) -> None:
    """Kill processes in a way that looking at them does not show: while the last of their threads
    ends, they still count as running."""
    monkeypatch.setattr(DecodingProcess, "alive", True)
    for process in processes:
        process.kill()
    until(lambda: not any(running(process.pid) for process in processes))


def test_an_idle_process_that_dies_as_it_is_taken_costs_no_image(
    decoder: ImageDecoder, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder.load(photo)
    lost = decoder.failures
    with monkeypatch.context() as patched:
        killed_unnoticed(patched, decoder._idle)
        patched.setattr(decoder, "_warm", 0)  # so that what is gone is not kept for the next one
        assert decoder.load(photo).shape == (300, 400, 3)
    assert decoder.failures == lost + 1
    assert decoder.load(photo).shape == (300, 400, 3)


def test_an_image_is_not_blamed_for_processes_that_never_began(
    faulty: Callable, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = faulty(warm=2)
    with monkeypatch.context() as patched:
        killed_unnoticed(patched, decoder._idle)
        patched.setattr(decoder, "_warm", 0)
        with pytest.raises(MediaError, match="ended before it began") as caught:
            decoder.load(photo)
    assert caught.value.reason is Reason.FAILED
    assert decoder.failures == 2
    assert decoder.load(photo).shape == (300, 400, 3)


def test_what_a_decoder_can_see_and_do(faulty: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "secret-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-key")
    with pytest.raises(MediaError) as caught:
        faulty().load(io.BytesIO(b"tell:"))
    told = json.loads(caught.value.sentence)
    assert not told["secret"]
    assert set(told["names"]) <= {
        "PYTHONPATH", "LANG", "LC_CTYPE", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS",
        "MALLOC_ARENA_MAX", "LD_LIBRARY_PATH", "PYTHONHOME",
    }  # fmt: skip
    none = "Too many open files"
    assert [told[name] for name in ("read", "write", "connect", "run")] == [none] * 4


def test_processes_end_with_the_decoder(photo: Path) -> None:
    decoder = ImageDecoder(max_pixels=1_000_000, seconds=PATIENCE)
    decoder.load(photo)
    before = pids(decoder)
    assert len(before) == 2
    decoder.close()
    decoder.close()
    assert not any(running(pid) for pid in before)
    with pytest.raises(MediaError, match="stopping"):
        decoder.load(photo)


ORPHANS = """
import io, os, sys, threading, time
from backend.pixels.sandbox import image_decoding
from backend.pixels.sandbox.image_decoding import ImageDecoder
decoder = ImageDecoder(max_pixels=10, warm=3, seconds=1, module={module!r})
before = {{process.pid for process in decoder._idle}}
for fault in (b"hang:", b"sleep:"):
    threading.Thread(target=decoder.load, args=(io.BytesIO(fault),), daemon=True).start()
time.sleep(0.9)
print(*before, flush=True)
os.kill(os.getpid(), 9)
"""


def test_processes_end_with_a_service_that_is_killed() -> None:
    """The idle one and the one that decodes at once, and the one that hangs at its alarm."""
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", ORPHANS.format(module=FAULTY)],
        capture_output=True,
        text=True,
        cwd=root,
        check=False,
    )
    orphans = [int(pid) for pid in done.stdout.split()]
    assert done.returncode == -signal.SIGKILL
    assert len(orphans) == 3
    until(lambda: not any(running(pid) for pid in orphans))
