"""One prediction of this model for each task, whoever is killed, and whenever.

Label Studio stores whatever it is sent, and knows no key by which it would tell that it was sent
before. So before a prediction is sent, it is written down which ones the task has, and what the new
one looks like (``Mark``). Whoever finds such a mark looks first: a prediction that was not there
before and has the same regions is the one that was sent. After an attempt whose answer nobody got,
the task is looked at again once the run has ended, since a server that was slow may have stored
that one too.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from backend.labelstudio.client import LabelStudioClient, LabelStudioError
from backend.labelstudio.json_values import Results, mappings
from backend.labelstudio.model_names import model_of
from backend.runs.run_store import Mark

logger = logging.getLogger(__name__)


class TakenMeanwhile(Exception):
    """Somebody else has stored a prediction of this model since the task was looked at."""


@dataclass(frozen=True)
class Storing:
    """Stores predictions in one Label Studio.

    Attributes:
        model: the weights whose predictions are told from others'.
    """

    client: LabelStudioClient
    model: str

    def put(
        self,
        task: int,
        results: Results,
        score: float | None,
        *,
        mark: Mark | None,
        keep: Callable[[Mark], None],
        overwrite: bool,
    ) -> tuple[int, Mark]:
        """Store the prediction of a task, if it is not there, and delete its doubles.

        Args:
            mark: of an earlier attempt.
            keep: puts the mark on the disk.
            overwrite: in the place of those of this model that the task had.

        Returns:
            The number of the prediction, and the mark as it is now.

        Raises:
            TakenMeanwhile: see there; only where none is to be overwritten.
            LabelStudioError: it could not be stored, or is, and nobody could say so.
        """
        there, digest = self._own(task), digest_of(results)
        if mark is None:
            if there and not overwrite:
                raise TakenMeanwhile
            mark = Mark(tuple(there), (digest,))
        number = _sent(there, mark)
        if number is None:
            # Until the answer is here, nobody knows whether the prediction is stored.
            mark = replace(mark, digests=(*{*mark.digests, digest},))
            keep(replace(mark, doubtful=True))
            stored = self.client.create_prediction(task, results, self.model, score).get("id")
            number = stored if isinstance(stored, int) else _sent(self._own(task), mark)
            if number is None:
                raise LabelStudioError(
                    f"{self.client.name} took the prediction of task {task} and does not show it."
                )
        if overwrite:
            for earlier in mark.before:
                self.client.delete_prediction(earlier)
        return number, mark

    def delete_doubles(self, task: int, mark: Mark, number: int) -> None:
        """Delete what attempts without an answer stored beside the prediction of a task."""
        for other, digest in self._own(task).items():
            if other != number and other not in mark.before and digest in mark.digests:
                logger.info("task %d: prediction %d, stored twice, is deleted", task, other)
                self.client.delete_prediction(other)

    def _own(self, task: int) -> dict[int, str]:
        """By number: digests of the predictions of this model."""
        every = self.client.list_predictions(task)
        own = [each for each in every if model_of(each.get("model_version")) == self.model]
        numbers = {each["id"]: digest_of([*mappings(each.get("result"))]) for each in own}
        return {number: digest for number, digest in numbers.items() if isinstance(number, int)}


def _sent(there: Mapping[int, str], mark: Mark) -> int | None:
    """The prediction that an earlier attempt stored."""
    sent = [n for n, digest in there.items() if n not in mark.before and digest in mark.digests]
    return min(sent, default=None)


def digest_of(results: Sequence[Mapping[str, Any]]) -> str:
    """Names the regions of a prediction."""
    names = "\n".join(str(each.get("id")) for each in results)
    return hashlib.sha256(names.encode()).hexdigest()[:16]
