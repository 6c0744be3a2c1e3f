"""HTML as Markdown and as text."""

from __future__ import annotations

import time

import pytest

from mas_sandbox.guest.tools.page import to_markdown, to_text
from mas_sandbox.guest.tools.url import Url

URL = Url.parse("https://docs.example/guide/start.html?v=1")


def markdown(html: str) -> str:
    return to_markdown(html, URL)[1]


def text(html: str) -> str:
    return to_text(html)[1]


@pytest.mark.parametrize(
    ("html", "marked", "plain"),
    [
        ("one\n  two\t three", "one two three", "one two three"),
        ("<p>one<p>two</p>three", "one\n\ntwo\n\nthree", "one\n\ntwo\n\nthree"),
        ("<h2>Head</h2>body", "## Head\n\nbody", "Head\n\nbody"),
        ("<b>bold </b>and<i> slanted</i>", "**bold** and *slanted*", "bold and slanted"),
        ("a <code>x | y</code> b", "a `x | y` b", "a x | y b"),
        ("<h2></h2><h3><p>x</h3>y", "### x\n\ny", "x\n\ny"),
        ("<b></b>a<em> </em>b", "a b", "a b"),
        ("one<br>two<br/>three", "one\ntwo\nthree", "one\ntwo\nthree"),
        ("one<hr>two", "one\n\ntwo", "one\n\ntwo"),
        ("caf&eacute; &lt;b&gt; &#x41;&nbsp;", "café <b> A", "café <b> A"),
        ("<ul><li>a<li>b</ul>c", "- a\n- b\n\nc", "- a\n- b\n\nc"),
        ("<ol><li>a</li><li>b</li></ol>", "1. a\n2. b", "1. a\n2. b"),
        (
            "<ul><li>a<ul><li>b</li><li>c</li></ul></li><li>d</li></ul>",
            "- a\n  - b\n  - c\n- d",
            "- a\n  - b\n  - c\n- d",
        ),
        ("<ul><li><p>a</p><p>b</p></li></ul>", "- a\n\n  b", "- a\n\n  b"),
        ("<li>loose", "- loose", "- loose"),
        (
            "<blockquote>a<p>b</blockquote>c",
            "> a\n>\n> b\n\nc",
            "a\n\nb\n\nc",
        ),
        ("<pre>  x\n\n  y</pre>z", "```\n  x\n\n  y\n```\n\nz", "x\n\n  y\n\nz"),
        (
            "<table><tr><th>a<th>b|c<tr><td>1<td><p>2</p></table>end",
            "| a | b\\|c |\n| --- | --- |\n| 1 | 2 |\n\nend",
            "a\tb|c\n1\t2\n\nend",
        ),
        (
            "<table><tr><td>x<table><tr><td>in</td></tr></table></td><td>y</td></tr></table>",
            "| x in | y |\n| --- | --- |",
            "x in\ty",
        ),
        ('<img src=a.png alt=" a  cat ">', "![a cat](https://docs.example/guide/a.png)", "a cat"),
        ('<img src="data:image/png;base64,xyz" alt=cat><img src=b.png>', "cat", "cat"),
    ],
)
def test_a_page_says_the_same_in_both_forms(html: str, marked: str, plain: str) -> None:
    assert markdown(html) == marked
    assert text(html) == plain


def test_what_is_not_shown_is_dropped() -> None:
    hidden = "<script>var a = '<p>';</script><style>p {}</style><svg><title>s</title>x</svg>"
    hidden += "<template><p>t</template><select><option>o</select><!-- c --><?php x ?>"
    assert markdown(f"before {hidden} after") == "before after"
    assert to_text(f"<title> My\n page </title>{hidden}body") == ("My page", "body")


def test_links_are_absolute_and_only_of_the_web() -> None:
    cases = {
        "next.html": "https://docs.example/guide/next.html",
        "/top": "https://docs.example/top",
        "//cdn.example/x": "https://cdn.example/x",
        "http://other.example/a b": "http://other.example/a%20b",
        "?v=(2)": "https://docs.example/guide/start.html?v=%282%29",
    }
    for reference, address in cases.items():
        assert markdown(f'<a href="{reference}">go</a>.') == f"[go]({address})."
    for reference in ("#here", "javascript:alert(1)", "mailto:a@b.example", "http://[", ""):
        assert markdown(f'<a href="{reference}">go</a>.') == "go."
    assert markdown("<a href=x></a><a href=y>a<a href=z>b") == (
        "[a](https://docs.example/guide/y)[b](https://docs.example/guide/z)"
    )
    assert markdown("<base href='/v2/'><a href=x>y</a>") == "[y](https://docs.example/v2/x)"


def test_every_tag_may_be_missing_or_too_many() -> None:
    for html in (
        "</p></ul></table></b></a>x",
        "<ul><ol><li><blockquote><table><tr><td><pre><b><a href=x>x",
        "<table><td>x</table></td></tr></table>",
        "<b><p>x</b></p>",
        "<pre><pre>x</pre></pre>",
        "<p <p <p>x",
        "<![CDATA[x]]>x",
        "&#xffffffff;&#0;x<",
    ):
        assert "x" in markdown(html)
        assert "x" in text(html)


@pytest.mark.parametrize(
    "piece",
    ["<ul><li>x", "<blockquote>x", "<table><tr><td>x", "<b>x", "<a href=y>x", "<div>x", "<svg>"],
)
def test_nesting_costs_time_in_proportion_and_no_stack(piece: str) -> None:
    def seconds(count: int) -> float:
        begun = time.process_time()
        markdown(piece * count)
        return time.process_time() - begun

    seconds(100)
    assert seconds(20_000) < 30 * max(seconds(2_000), 0.01)
