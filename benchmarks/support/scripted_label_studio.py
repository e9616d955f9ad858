"""A Label Studio that serves one video and takes predictions, and notes when they came."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

from benchmarks.support.recording_server import RecordingServer, Reply, Seen

VIDEO = "/data/upload/1/0badcafe-clip.mp4"
API_KEY = "0123456789abcdef0123456789abcdef01234567"
_CONFIG = """<View>
  <Video name="video" value="$video" framerate="{rate}"/>
  <VideoRectangle name="box" toName="video"/>
  <Labels name="labels" toName="video"><Label value="Object"/></Labels>
  <TextArea name="cmd" toName="video"/>
</View>"""


class ScriptedLabelStudio:
    """On loopback, for as long as it is not closed.

    Args:
        video: the bytes of the file.
    """

    def __init__(self, video: bytes) -> None:
        self._server = RecordingServer()
        self._server.serve(VIDEO, video, ETag='"clip"')
        self._server.route("/api/predictions/", self._take)
        self._changed = threading.Condition()
        self._predictions: dict[int, tuple[float, list[dict[str, Any]]]] = {}

    @property
    def url(self) -> str:
        return self._server.url

    def prediction(self, task: int, seconds: float) -> tuple[float, list[dict[str, Any]]]:
        """When the prediction of a task came, on ``time.monotonic``, and its results.

        Raises:
            TimeoutError: it did not come in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: task in self._predictions, seconds):
                raise TimeoutError(f"no prediction for task {task} within {seconds} seconds")
            return self._predictions[task]

    def close(self) -> None:
        self._server.close()

    def _take(self, seen: Seen) -> Reply:
        now = time.monotonic()
        if seen.method == "POST":
            body = json.loads(seen.body)
            with self._changed:
                self._predictions[body["task"]] = (now, body["result"])
                self._changed.notify_all()
        headers = {"Content-Type": "application/json"}
        return Reply(201, json.dumps({"id": 1}).encode(), headers)


def track_request(
    task: int, boxes: dict[str, dict[str, float]], frames: int, rate: int
) -> dict[str, Any]:
    """The body that the editor sends for "track", with the boxes of frame 1 in the draft.

    Args:
        task: its id.
        boxes: by region id, x, y, width and height in percent.
        frames, rate: of the video.
    """
    regions = [
        {
            "id": name,
            "from_name": "box",
            "to_name": "video",
            "type": "videorectangle",
            "origin": "manual",
            "value": {
                "framesCount": frames,
                "duration": frames / rate,
                "sequence": [{"frame": 1, "enabled": True, "rotation": 0, "time": 1 / rate, **box}],
                "labels": ["Object"],
            },
        }
        for name, box in boxes.items()
    ]
    command = {
        "id": "cmd-1",
        "from_name": "cmd",
        "to_name": "video",
        "type": "textarea",
        "value": {"text": ["track"]},
    }
    return {
        "tasks": [{"id": task, "data": {"video": VIDEO}, "drafts": [{"id": 1, "result": regions}]}],
        "project": "1.1",
        "label_config": _CONFIG.format(rate=rate),
        "params": {"context": {"result": [command]}},
    }
