"""What can go wrong without a defect in the program."""

from __future__ import annotations


class ExpectedError(Exception):
    """Something that users cause or meet: a missing file, a busy machine, a wrong setting.

    ``str()`` is a sentence or two for whoever waits: what is wrong and, where something can be
    done, what. Every other exception is a defect; its cause belongs in the log.
    """
