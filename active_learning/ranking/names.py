"""Which image an answer is about: by the content that was asked for under its name, else by the file of that name."""

import unicodedata
from collections.abc import Sequence
from functools import cached_property

from active_learning.images.library import Library, Picture
from active_learning.images.tables import Answer, normal


class Names:
    """The names that images have, or had when they were asked for.

    Args:
        library: the images.
        asked: the file names that were asked for, each with the sha256 that its content had then, in that order.

    Attributes:
        pictures: by the names of the files that are there now, copies too.
        contents: the same by their sha256.
    """

    def __init__(self, library: Library, asked: Sequence[tuple[str, str]] = ()) -> None:
        self.library = library
        self._asked = frozenset(asked)
        self.pictures = library.by_name()
        self.contents: dict[str, Picture] = {picture.sha256: picture for picture in library.pictures}
        # Whoever answers has looked at the image that was asked for, whatever lies under its name by now.
        self._sha256s = {name: picture.sha256 for name, picture in self.pictures.items()} | dict(asked)

    def content(self, answer: Answer) -> str | None:
        """Return the sha256 of the image that an answer is about, which may be gone; None for an unknown name."""
        if answer.sha256:
            return answer.sha256
        name = self.known(answer.file_name)
        return None if name is None else self._sha256s[name]

    def known(self, file_name: str) -> str | None:
        """Return a name as it is known here; None where it is not, or could be either of two.

        A path of Windows has backslashes, and an accent may be a character of its own (NFD, as macOS has it) or a part
        of its letter (NFC): a name is tried as it is, before it is taken for another.
        """
        spellings = (file_name, normal(file_name), normal(file_name.replace("\\", "/")))
        if exact := next((name for name in spellings if name in self._sha256s), None):
            return exact
        alike = [self._composed.get(unicodedata.normalize("NFC", name), []) for name in spellings]
        return next((several[0] for several in alike if len(several) == 1), None)

    @cached_property
    def _composed(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name in self._sha256s:
            found.setdefault(unicodedata.normalize("NFC", name), []).append(name)
        return found

    def contradict(self, answer: Answer) -> bool:
        """Return whether an answer names a file and a content that do not belong together, now or when asked for."""
        name = self.known(answer.file_name) or ""
        there = self.pictures.get(name)
        another = there is not None and answer.sha256 not in ("", there.sha256)
        return another and (name, answer.sha256) not in self._asked

    def renamed(self, answer: Answer) -> str:
        """Return the name that the image of an answer has now, where it is another than the answer says; else ""."""
        picture, name = self.contents.get(self.content(answer) or ""), self.known(answer.file_name)
        return "" if picture is None or name in (None, self.named(answer, picture)) else picture.file_name

    def named(self, answer: Answer, picture: Picture) -> str:
        """Return the name of an answer's image: the one it says where a file of this content has that, else another."""
        name = self.known(answer.file_name)
        return name if name is not None and self.pictures.get(name) is picture else picture.file_name
