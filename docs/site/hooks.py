"""What mkdocs needs beyond the pages of docs/. The pages are written to be read in the repository, and stay as they are there.

README, CONTRIBUTING and SECURITY become pages too. Every other file of the repository that a page links to is copied beside the pages, as
text, so that the links work wherever the site is and nothing is loaded from elsewhere.
"""

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md"}
"""Pages outside docs/, and their names in the site."""
SOURCES = "source"
LINK = re.compile(r"`[^`\n]*`|(?<=\]\()([^)#\s]+)(?=[)#])")
"""Code, in which there is no link, or the file of a link."""
ITEM = re.compile(r"(?:[-*]|\d+\.) ")
FENCE = re.compile(r"\s*```")
FENCED = re.compile(r"(?ms)(^ *```.*?^ *```$)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages outside docs/, and the files that any page links to."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    copied = set()
    for file in files.documentation_pages():
        page = original_of(file.src_uri)
        for link in links_of(file.content_string):
            target = target_of(page, link)
            if target is not None and place_of(target).startswith(f"{SOURCES}/") and target not in copied:
                if not (ROOT / target).is_file():
                    raise PluginError(f"{page}: links to {link}, which is no file; name a file.")
                copied.add(target)
                files.append(File.generated(config, place_of(target), abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links between files of the repository into links between files of the site."""
    here = page.file.src_uri

    def moved(link: re.Match[str]) -> str:
        target = target_of(original_of(here), link[1]) if link[1] else None
        return link[0] if target is None else os.path.relpath(place_of(target), os.path.dirname(here) or ".")  # noqa: PTH120

    # The parts between fences, and those in them, follow each other.
    parts = FENCED.split(markdown)
    return indent_lists("".join(part if FENCED.match(part) else LINK.sub(moved, part) for part in parts))


def links_of(markdown: str) -> list[str]:
    """Files that a page links to, as it writes them."""
    return [link for part in FENCED.split(markdown) if not FENCED.match(part) for link in LINK.findall(part) if link]


def original_of(place: str) -> str:
    """Path in the repository of a page of the site."""
    return next((name for name, page in PAGES.items() if page == place), f"docs/{place}")


def target_of(page: str, link: str) -> str | None:
    """Path in the repository that a link of a page leads to; None where it leads elsewhere."""
    if "://" in link or link.startswith("mailto:"):
        return None
    return os.path.normpath(PurePosixPath(page).parent / link)


def place_of(target: str) -> str:
    """Path in the site of a file of the repository. A browser shows what ends in .txt, and saves the rest."""
    if target in PAGES:
        return PAGES[target]
    is_page = target.startswith("docs/") and target.endswith((".md", ".png"))
    return target.removeprefix("docs/") if is_page else f"{SOURCES}/{target}.txt"


def indent_lists(markdown: str) -> str:
    """Gives what belongs to an item of a list the four spaces that Python's Markdown asks for."""
    lines: list[str] = []
    width, fenced, in_parts = 0, False, False  # columns of the item's text; whether the item has more than one paragraph
    for line in markdown.splitlines():
        inside = bool(width) and line.startswith(" " * width)
        fenced ^= bool(FENCE.match(line))
        item = None if fenced or inside else ITEM.match(line)
        if item:
            if in_parts and lines[-1]:
                lines.append("")  # else the item would belong to the paragraph above it
            width, in_parts = item.end(), False
        elif line and not inside and not fenced:
            width, in_parts = 0, False
        elif inside and not lines[-1]:
            in_parts = True
        lines.append(" " * 4 + line[width:] if inside else line)
    return "\n".join(lines) + "\n"
