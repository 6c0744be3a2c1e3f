"""Text laid out as Markdown, or plain: paragraphs, lists, quotations, tables."""

from __future__ import annotations

MAX_NESTING = 24
"""Lists, items and quotations within each other; what is deeper is shown at this depth."""
_HEADINGS = {f"h{level}": "#" * level + " " for level in range(1, 7)}
_PARAGRAPHS = frozenset(
    {
        *("p", "div", "section", "article", "main", "header", "footer", "nav", "aside", "form"),
        *("figure", "figcaption", "address", "details", "summary", "dl", "dt", "dd", "fieldset"),
        *("body", "noscript", "hr"),
    }
)
_INDENTS = {"ul": "", "ol": "", "li": "", "blockquote": "> "}


class _Container:
    """`marker`: what its first line begins with, until that is written; `indent`: the others;
    `count`: of the items of a list."""

    __slots__ = ("count", "indent", "marker", "tag")

    def __init__(self, tag: str, indent: str, marker: str = "") -> None:
        self.tag = tag
        self.indent = indent
        self.marker = marker
        self.count = 0


class Flow:
    """Collects text and decides on line breaks and spaces between its pieces.

    `marked`: write Markdown's marks; else text alone.
    """

    def __init__(self, *, marked: bool) -> None:
        self._marked = marked
        self._out: list[str] = []
        self._breaks = 1  # line feeds due before the next text
        self._space = False  # a space due before the next text
        self._marks: list[str] = []  # due before the next text, without a space between
        self._cell_begun = False  # and nothing is in it yet
        self._containers: list[_Container] = []
        self._tables = 0
        self._cells = 0  # of the row so far
        self._rows = 0
        self._in_cell = False

    def text(self) -> str:
        return "".join(self._out).strip()

    def add(self, text: str) -> None:
        """Text whose white space is only that: space."""
        words = " ".join(text.split())
        if text[:1].isspace():
            self._space = True
        if words:
            self._put(words.replace("|", "\\|") if self._in_cell and self._marked else words)
            self._space = text[-1:].isspace()

    def write(self, text: str) -> None:
        """Text to be kept as it is."""
        if text:
            first, *others = text.split("\n")
            self._put(first)
            self._out += ["\n" + self._line_start() + line for line in others]

    def mark(self, mark: str) -> None:
        """Begin something with a mark, which the next text joins without a space."""
        if self._marked:
            self._marks.append(mark)

    def end_mark(self, mark: str, end: str = "") -> None:
        """End what `mark` began, with the same or with `end`; what is empty is left out."""
        if mark in self._marks:
            self._marks.remove(mark)
        elif self._marked:
            self._out.append(end or mark)

    def end_lines(self, count: int) -> None:
        """The next text begins a new line, after `count` line feeds."""
        if self._in_cell:
            self._space = True
        else:
            self._breaks = max(self._breaks, count)

    def begin_verbatim(self) -> None:
        self.end_lines(2)
        if self._marked:
            self.write("```\n")

    def end_verbatim(self) -> None:
        if self._marked:
            self.write("```" if self._out[-1].endswith("\n") else "\n```")
        self.end_lines(2)

    def begin(self, tag: str) -> None:
        """A block of text; elements of other kinds change nothing."""
        match tag:
            case _ if tag in _HEADINGS:
                self.end_lines(2)
                self.mark(_HEADINGS[tag])
            case _ if tag in _PARAGRAPHS:
                self.end_lines(2)
            case "ul" | "ol" | "blockquote":
                self.end_lines(1 if self._inside("li") else 2)
                self._enter(_Container(tag, _INDENTS[tag] if self._marked else ""))
            case "li":
                self._end_item()
                self.end_lines(1)
                self._enter(self._item())
            case "table":
                self._tables += 1
                if self._tables == 1:
                    self.end_lines(2)
                    self._rows = 0
            case "tr" if self._tables == 1:
                self._end_row()
            case "td" | "th" if self._tables == 1:
                self._begin_cell()
            case "td" | "th" | "tr":
                self._space = True

    def end(self, tag: str) -> None:
        match tag:
            case _ if tag in _HEADINGS:
                self._marks = [mark for mark in self._marks if mark != _HEADINGS[tag]]
                self.end_lines(2)
            case _ if tag in _PARAGRAPHS:
                self.end_lines(2)
            case "ul" | "ol" | "blockquote":
                self._leave(tag)
                self.end_lines(1 if self._inside("li") else 2)
            case "li":
                self._end_item()
                self.end_lines(1)
            case "td" | "th" if self._tables == 1:
                self._end_cell()
            case "tr" if self._tables == 1:
                self._end_row()
            case "table" if self._tables:
                if self._tables == 1:
                    self._end_row()
                    self.end_lines(2)
                self._tables -= 1

    def _put(self, text: str) -> None:
        if self._breaks:
            if self._out:
                blank = "".join(container.indent for container in self._containers).rstrip()
                self._out.append("\n" + (blank + "\n") * (self._breaks - 1))
            self._out.append(self._line_start())
            self._breaks = 0
        elif self._space and not self._cell_begun:
            self._out.append(" ")
        self._out += [*self._marks, text]
        self._marks.clear()
        self._space = self._cell_begun = False

    def _line_start(self) -> str:
        begun = [container.marker or container.indent for container in self._containers]
        for container in self._containers:
            container.marker = ""
        return "".join(begun)

    # Lists and quotations

    def _inside(self, tag: str) -> bool:
        return any(container.tag == tag for container in self._containers)

    def _enter(self, container: _Container) -> None:
        if len(self._containers) < MAX_NESTING:
            self._containers.append(container)

    def _leave(self, tag: str) -> None:
        """Leave the innermost such container, with all that was left open in it."""
        if self._inside(tag):
            while self._containers.pop().tag != tag:
                continue

    def _end_item(self) -> None:
        for container in reversed(self._containers):
            if container.tag in ("ul", "ol"):
                return
            if container.tag == "li":
                self._leave("li")
                return

    def _item(self) -> _Container:
        marker = "- "
        if self._containers and self._containers[-1].tag == "ol":
            self._containers[-1].count += 1
            marker = f"{self._containers[-1].count}. "
        return _Container("li", " " * len(marker), marker)

    # Tables: the outermost one has rows, those inside its cells are only text.

    def _begin_cell(self) -> None:
        self._end_cell()
        if self._cells == 0:
            self.end_lines(1)
        if self._marked:
            self._put("| ")
        elif self._cells:
            self._put("\t")
        self._cells += 1
        self._in_cell = self._cell_begun = True
        self._space = False

    def _end_cell(self) -> None:
        if self._in_cell:
            self._in_cell = self._space = False
            if self._marked:
                self._out.append(" ")

    def _end_row(self) -> None:
        self._end_cell()
        if self._cells and self._marked:
            self._put("|")
            if self._rows == 0:
                self._out.append("\n" + self._line_start() + "|" + " --- |" * self._cells)
        self._rows += self._cells > 0
        self._cells = 0
        self.end_lines(1)
