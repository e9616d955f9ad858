"""Measure which frame Chromium shows at the times Label Studio seeks to: writes chromium.json.

    python -m tests.pixels.measure_chromium /usr/bin/chromium

Run by hand when the browser or ``seek_time`` changes; the tests compare with the file.
"""

from __future__ import annotations

import base64
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from backend.labelstudio.timing import seek_time
from tests.pixels.clips import BITS, make_clip

CONSTANT = ("23.976.mp4", "24.mp4", "25.mp4", "29.97.mp4", "30.mp4", "50.mp4", "60.mp4")
OTHERS = (
    "vfr.mp4", "b_frames.mp4", "offset.mp4", "offset_with_sound.mp4", "offset.webm", "trimmed.mp4",
    "fragmented.mp4", "turned_90.mp4", "turned_180.mp4", "turned_270.mp4", "mirrored.mp4",
    "odd.webm",
)  # fmt: skip
RESULT = Path(__file__).with_name("chromium.json")
PLAYER = """async ([bytes, times, bits]) => {
  const video = document.createElement('video');
  video.muted = true;
  video.src = URL.createObjectURL(
    new Blob([Uint8Array.from(atob(bytes), (char) => char.charCodeAt(0))]));
  await new Promise((ready, failed) => { video.oncanplaythrough = ready; video.onerror = failed; });
  const duration = video.duration;
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  const context = canvas.getContext('2d', { willReadFrequently: true });
  const number = () => {
    context.drawImage(video, 0, 0);
    let found = 0;
    for (let bit = 0; bit < bits; bit++) {
      const x = Math.floor((bit + 0.5) * canvas.width / bits);
      const level = context.getImageData(x, Math.floor(canvas.height / 4), 1, 1).data[0];
      if (level > 70 && level < 185) return -1;
      found = found * 2 + (level > 128 ? 1 : 0);
    }
    return found;
  };
  const shown = [];
  for (const time of times) {
    if (video.currentTime !== time) {
      const seeked = new Promise((done) => { video.onseeked = done; });
      video.currentTime = time;
      await seeked;
      await new Promise((drawn) => setTimeout(drawn, 15));
    }
    shown.push(number());
  }
  return { duration, size: [canvas.width, canvas.height], shown };
}"""


def measure(page: Page, clip: Path, framerate: float) -> dict[str, Any]:
    last = int(2.9 * framerate)
    times = [seek_time(frame, framerate) for frame in range(1, last + 1)]
    data = base64.b64encode(clip.read_bytes()).decode()
    found = page.evaluate(PLAYER, [data, times, BITS])
    return {"clip": clip.name, "framerate": framerate, **found}


def main(chromium: str) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        page = browser.new_page()
        page.goto("about:blank")
        for name in CONSTANT + OTHERS:
            clip = make_clip(name, Path(folder))
            for framerate in (24, 25, 29.97, 30, 60) if name in CONSTANT else (24, 25):
                rows.append(measure(page, clip, framerate))
                print(name, framerate, rows[-1]["duration"], rows[-1]["shown"][:12], flush=True)
        version = browser.version
        browser.close()
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    RESULT.write_text(f'{{"browser": "Chromium {version}", "measured": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main(sys.argv[1])
