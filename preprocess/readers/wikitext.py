"""Resolves nested wikitext: finds templates, links and extension tags in one pass and replaces each by the result of its rule.

The stack is that of MediaWiki's own Preprocessor_Hash, so brackets pair as they do on the page that a reader sees. Time is proportional to
the length of the page whatever is left open; a parser that backtracks could not promise that.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

MAX_DEPTH = 100
"""Largest number of brackets open at once. MediaWiki expands no deeper either; what is left open adds up too, and a hundred such are
no page to read."""
Parts = list[list[str]]
"""Texts between the bars of a template or link, each as strings in which inner brackets are resolved."""


@dataclass(frozen=True)
class Rules:
    """Functions that replace each kind of markup."""

    template: Callable[[Parts], str]
    """{{name|argument|...}}"""
    argument: Callable[[Parts], str]
    """{{{name|default}}}"""
    link: Callable[[Parts], str]
    """[[target|label|...]]"""
    extension: Callable[[str, str, str], str]
    """A tag whose content is no wikitext: its name in small letters, its attributes and its content."""


@dataclass(slots=True)
class _Open:
    """Opening brackets that wait for their closing ones."""

    bracket: str
    count: int
    parts: Parts = field(default_factory=lambda: [[]])

    def literally(self) -> list[str]:
        """Returns the text of brackets that are never closed."""
        texts = [self.bracket * self.count]
        for number, part in enumerate(self.parts):
            texts += ["|", *part] if number else part
        return texts


class _Tags:
    """Finds the ends of one page's extension tags. What a search found is kept, so that no part of the page is searched twice."""

    def __init__(self, text: str, closing: dict[str, re.Pattern[str]]) -> None:
        self._text = text
        self._closing = closing
        self._end_of_tag = -1
        self._never_closed: set[str] = set()

    def content(self, name: str, start: int) -> tuple[str, str, int] | None:
        """Returns (attributes, content, where the text goes on) of a tag whose name ends at `start`; None if it is never closed."""
        if self._end_of_tag < start:
            found = self._text.find(">", start)
            self._end_of_tag = len(self._text) if found < 0 else found
        end = self._end_of_tag
        if end == len(self._text):
            return None
        if self._text[end - 1] == "/":
            return self._text[start : end - 1], "", end + 1
        close = None if name in self._never_closed else self._closing[name].search(self._text, end + 1)
        if close is None:
            self._never_closed.add(name)
            return None
        return self._text[start:end], self._text[end + 1 : close.start()], close.end()


class Resolver:
    """Resolves the markup of pages; `extensions` are the names, in small letters, of the tags whose content is no wikitext."""

    def __init__(self, extensions: Iterable[str]) -> None:
        names = sorted(extensions, key=lambda name: (-len(name), name))
        self._token = re.compile(
            rf"\{{{{2,}}|\}}{{2,}}|\[{{2,}}|\]{{2,}}|\||<!--|<(?P<tag>{'|'.join(names)})(?=[\s/>])",
            re.IGNORECASE,
        )
        self._closing = {name: re.compile(rf"</{name}\s*+>", re.IGNORECASE) for name in names}

    def __call__(self, text: str, rules: Rules) -> str:
        """Returns the page without templates, links, extension tags and comments; unpaired brackets stay.

        Raises:
            ValueError: more than `MAX_DEPTH` brackets are open at once.
        """
        top: list[str] = []
        into = top  # where text goes: the last part of the innermost bracket, or the page
        stack: list[_Open] = []
        tags = _Tags(text, self._closing)
        position, search = 0, self._token.search
        while match := search(text, position):
            start, end = match.span()
            if start > position:
                into.append(text[position:start])
            position = end
            mark = text[start]
            if mark == "|":
                if stack:
                    stack[-1].parts.append(into := [])
                else:
                    into.append("|")
            elif mark in "{[":
                if len(stack) == MAX_DEPTH:
                    raise ValueError(f"more than {MAX_DEPTH} brackets are open at once")
                stack.append(_Open(mark, end - start))
                into = stack[-1].parts[0]
            elif mark in "}]":
                _close(mark, end - start, stack, top, rules)
                into = stack[-1].parts[-1] if stack else top
            elif match["tag"] is None:
                close = text.find("-->", end)
                position = len(text) if close < 0 else close + 3
            else:
                name = match["tag"].lower()
                found = tags.content(name, end)
                if found is None:
                    into.append(text[start:end])
                else:
                    attributes, content, position = found
                    # As in `_close`: what replaces markup never begins a part, where it could be taken for the name of an argument.
                    into += ["", rules.extension(name, attributes, content)]
        top += [literal for unclosed in stack for literal in unclosed.literally()]
        top.append(text[position:])
        return "".join(top)


def _close(mark: str, count: int, stack: list[_Open], top: list[str], rules: Rules) -> None:
    """Pairs a run of closing brackets with open ones; unpaired brackets become text.

    Args:
        mark: the closing bracket.
        count: length of the run.
        stack: open brackets; changed.
        top: text outside all brackets; added to.
        rules: what replaces a pair.
    """
    wanted = "{" if mark == "}" else "["
    while count >= 2 and stack:
        opened = stack[-1]
        if opened.bracket != wanted:
            # A template ends over a link left open in it, as editors forget ]] more often than }}; not the other way round.
            if wanted == "[" or not any(other.bracket == "{" for other in stack):
                break
            stack.pop()
            _innermost(stack, top).extend(opened.literally())
            continue
        matched = min(count, opened.count, 3 if wanted == "{" else 2)
        rule = rules.link if wanted == "[" else rules.template if matched == 2 else rules.argument
        stack.pop()
        left = opened.count - matched
        if left >= 2:
            stack.append(_Open(wanted, left))
        into = _innermost(stack, top)
        # The text of a part begins with what is no markup itself: only there may the name of an argument stand.
        into += [wanted if left == 1 else "", rule(opened.parts)]
        count -= matched
    _innermost(stack, top).append(mark * count)


def _innermost(stack: list[_Open], top: list[str]) -> list[str]:
    return stack[-1].parts[-1] if stack else top
