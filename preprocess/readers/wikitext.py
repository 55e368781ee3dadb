"""Resolves nested wikitext: finds templates, links and extension tags in one pass and replaces each by the result of its rule.

The stack is that of MediaWiki's own Preprocessor_Hash, so brackets pair as they do on the page that a reader sees. Time is proportional to
the length of the page whatever is left open; a parser that backtracks could not promise that.
"""

import re
from collections.abc import Callable, Mapping
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
    extensions: Mapping[str, Callable[[str], str]]
    """Tags whose content is no wikitext, by name in small letters, with the function that replaces the content."""


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


class Resolver:
    """Resolves the markup of pages by `rules`."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        names = "|".join(sorted(rules.extensions, key=len, reverse=True))
        self._token = re.compile(
            rf"\{{{{2,}}|\}}{{2,}}|\[{{2,}}|\]{{2,}}|\||<!--|<(?P<tag>{names})(?=[\s/>])",
            re.IGNORECASE,
        )
        self._closing = {name: re.compile(rf"</{name}\s*+>", re.IGNORECASE) for name in rules.extensions}

    def __call__(self, text: str) -> str:
        """Returns the page without templates, links, extension tags and comments; unpaired brackets stay.

        Raises:
            ValueError: more than `MAX_DEPTH` brackets are open at once.
        """
        top: list[str] = []
        into = top  # where text goes: the last part of the innermost bracket, or the page
        stack: list[_Open] = []
        never_closed: set[str] = set()
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
                self._close(mark, end - start, stack, top)
                into = stack[-1].parts[-1] if stack else top
            elif match["tag"] is None:
                close = text.find("-->", end)
                position = len(text) if close < 0 else close + 3
            else:
                replacement, position = self._extension(match["tag"].lower(), text, end, never_closed)
                into.append(text[start:end] if replacement is None else replacement)
        top += [literal for unclosed in stack for literal in unclosed.literally()]
        top.append(text[position:])
        return "".join(top)

    def _close(self, mark: str, count: int, stack: list[_Open], top: list[str]) -> None:
        """Pairs a run of closing brackets with open ones; unpaired brackets become text.

        Args:
            mark: the closing bracket.
            count: length of the run.
            stack: open brackets; changed.
            top: text outside all brackets; added to.
        """
        wanted = "{" if mark == "}" else "["
        while count >= 2 and stack:
            opened = stack[-1]
            if opened.bracket != wanted:
                # A template ends over a link left open in it, as editors forget ]] more often than }}; not the other way round.
                if wanted == "[" or not any(other.bracket == "{" for other in stack):
                    break
                stack.pop()
                self._into(stack, top).extend(opened.literally())
                continue
            matched = min(count, opened.count, 3 if wanted == "{" else 2)
            rule = self._rules.link if wanted == "[" else self._rules.template if matched == 2 else self._rules.argument
            stack.pop()
            left = opened.count - matched
            if left >= 2:
                stack.append(_Open(wanted, left))
            into = self._into(stack, top)
            # The text of a part begins with what is no markup itself: only there may the name of an argument stand.
            into += [wanted if left == 1 else "", rule(opened.parts)]
            count -= matched
        self._into(stack, top).append(mark * count)

    @staticmethod
    def _into(stack: list[_Open], top: list[str]) -> list[str]:
        return stack[-1].parts[-1] if stack else top

    def _extension(self, name: str, text: str, start: int, never_closed: set[str]) -> tuple[str | None, int]:
        """Returns (replacement of an extension tag, where the text goes on); (None, start) if the tag is never closed.

        Args:
            name: name of the tag.
            text: the page.
            start: where the tag's name ends.
            never_closed: tags that are known to have no closing tag in the rest of the page, or '>' if none follows; added to.
        """
        end = -1 if ">" in never_closed else text.find(">", start)
        if end < 0:
            never_closed.add(">")
            return None, start
        if text[end - 1] == "/":
            return self._rules.extensions[name](""), end + 1
        close = None if name in never_closed else self._closing[name].search(text, end + 1)
        if close is None:
            never_closed.add(name)
            return None, start
        return self._rules.extensions[name](text[end + 1 : close.start()]), close.end()
