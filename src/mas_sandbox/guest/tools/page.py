"""HTML pages as text or Markdown, for a reader who wants what they say.

The parser is Python's own, which takes whatever it is given; nothing here recurses.
Import this only where there is a page to read: html.parser is slow to import.
"""

from __future__ import annotations

from html.parser import HTMLParser

from .flow import Flow
from .url import Url

TYPE_CHECKING = False
if TYPE_CHECKING:
    Attributes = list[tuple[str, str | None]]

_UNSEEN = frozenset(
    {"script", "style", "template", "svg", "iframe", "object", "select", "canvas", "textarea"}
)
_MARKS = {"b": "**", "strong": "**", "i": "*", "em": "*", "code": "`", "kbd": "`", "del": "~~"}


def to_markdown(html: str, url: Url) -> tuple[str, str]:
    """(title, Markdown). Links are made absolute, as seen from `url`."""
    return _converted(html, _Page(url))


def to_text(html: str) -> tuple[str, str]:
    """(title, plain text)."""
    return _converted(html, _Page(None))


def _converted(html: str, page: _Page) -> tuple[str, str]:
    page.feed(html)
    page.close()
    return " ".join(page.title.split()), page.flow.text()


class _Page(HTMLParser):
    """`base`: what links are relative to; None for text without any markup."""

    def __init__(self, base: Url | None) -> None:
        super().__init__()
        self.title = ""
        self.flow = Flow(marked=base is not None)
        self._base = base
        self._unseen = ""  # the element that is passed over, and how often it is open
        self._depth = 0
        self._in_title = False
        self._verbatim = False
        self._open_marks: list[str] = []
        self._link: str | None = None

    def handle_starttag(self, tag: str, attrs: Attributes) -> None:
        if self._unseen:
            self._depth += tag == self._unseen
            return
        flow = self.flow
        match tag:
            case _ if tag in _UNSEEN:
                self._unseen, self._depth = tag, 1
            case "title":
                self._in_title = not self.title
            case _ if tag in _MARKS and not self._verbatim:
                self._open_marks.append(tag)
                flow.mark(_MARKS[tag])
            case "a":
                self._end_link()
                self._link = self._address(dict(attrs).get("href"))
                if self._link is not None:
                    flow.mark("[")
            case "img":
                self._image(dict(attrs))
            case "br":
                flow.write("\n") if self._verbatim else flow.end_lines(1)
            case "pre":
                flow.begin_verbatim()
                self._verbatim = True
            case "base":
                self._rebase(dict(attrs).get("href"))
            case _:
                flow.begin(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._unseen:
            self._depth -= tag == self._unseen
            if not self._depth:
                self._unseen = ""
            return
        flow = self.flow
        match tag:
            case "title":
                self._in_title = False
            case _ if tag in self._open_marks:
                self._open_marks.remove(tag)
                flow.end_mark(_MARKS[tag])
            case "a":
                self._end_link()
            case "pre" if self._verbatim:
                self._verbatim = False
                flow.end_verbatim()
            case _:
                flow.end(tag)

    def handle_data(self, data: str) -> None:
        if self._unseen:
            return
        if self._in_title:
            self.title += data
        elif self._verbatim:
            self.flow.write(data)
        else:
            self.flow.add(data)

    def close(self) -> None:
        super().close()
        self._end_link()

    def _end_link(self) -> None:
        if self._link is not None:
            self.flow.end_mark("[", f"]({self._link})")
            self._link = None

    def _image(self, attributes: dict[str, str | None]) -> None:
        said = " ".join((attributes.get("alt") or "").split())
        if said:
            address = self._address(attributes.get("src"))
            self.flow.add(said if address is None else f"![{said}]({address})")

    def _address(self, reference: str | None) -> str | None:
        """Absolute; None where it leads nowhere else, or is not to be shown."""
        if self._base is None or not reference or reference.startswith("#"):
            return None
        try:
            return str(self._base.joined(reference)).replace("(", "%28").replace(")", "%29")
        except ValueError:
            return None

    def _rebase(self, reference: str | None) -> None:
        if self._base is not None and reference:
            try:
                self._base = self._base.joined(reference)
            except ValueError:
                return
