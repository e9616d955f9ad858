"""What can go wrong without a defect in the program, in sentences of a bounded length, and words
that sentences are made of."""

from __future__ import annotations

LONGEST_SENTENCE = 2000
_SPACES = " \n\t"


class ExpectedError(Exception):
    """Something that users cause or meet: a missing file, a busy machine, a wrong setting.

    ``str()`` is a sentence or two for whoever waits: what is wrong and, where something can be
    done, what. Every other exception is a defect; its cause belongs in the log.

    What users wrote (names of tags, labels, keys of tasks) stands in many a sentence, and may be a
    megabyte: ``str()`` is cut.
    """

    def __str__(self) -> str:
        return cut(super().__str__(), LONGEST_SENTENCE)


def cut(text: str, limit: int) -> str:
    """``text`` where it has at most ``limit`` characters, else its whole words within them: half of
    a secret would not be recognised as one."""
    if len(text) <= limit:
        return text
    end = max(text.rfind(space, 0, limit) for space in _SPACES) + 1
    return f"{text[:end]}[cut, {len(text)} characters]"


def counted(number: int, one: str, more: str = "") -> str:
    """A number with its word: "1 picture", "2 pictures", "0 boxes".

    Args:
        one, more: what stands after 1, and after any other number; by default ``one`` with an s,
            or es.
    """
    ending = "es" if one.endswith(("s", "x", "ch", "sh")) else "s"
    return f"{number} {one if number == 1 else more or one + ending}"
