"""The preprocess section of a recipe: what is read from it, and the one sentence that each mistake gets."""

import dataclasses
from pathlib import Path

import pytest

from jadeberta.shards import ConfigError, InputError
from preprocess.config import CorpusConfig, PreprocessConfig
from preprocess.load_config import load_config
from tests.helpers import ROOT

GOOD = """\
run: {dir: somewhere}
preprocess:
  corpora:
    web:
      format: jsonl
      path: web.jsonl
      repeats: 3
  vocab_size: 8000
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(GOOD)
    return path


def refused(recipe: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(recipe, overrides)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")
    return str(error.value)


def test_section_is_read_and_the_rest_has_its_defaults(recipe: Path) -> None:
    expected = PreprocessConfig(corpora={"web": CorpusConfig("jsonl", "web.jsonl", 3)}, vocab_size=8000)
    assert load_config(recipe) == expected
    assert (expected.segmenter.engine, expected.heldout_documents) == ("jumanpp", 5000)


def test_phases_of_the_training_are_accepted_and_not_looked_at(recipe: Path) -> None:
    expected = load_config(recipe)
    recipe.write_text(GOOD + "phases:\n  - {steps: 3, sequence_length: 1024}\n")
    assert load_config(recipe) == expected


def test_options_come_before_the_recipe(recipe: Path) -> None:
    options = ("--preprocess.segmenter.engine", "mecab", "--preprocess.vocab_size=400", "--preprocess.corpora.web.repeats", "7")
    config = load_config(recipe, options)
    assert (config.segmenter.engine, config.vocab_size, config.corpora["web"].repeats) == ("mecab", 400, 7)


@pytest.mark.parametrize("name", ["large", "base", "demo"])
def test_recipes_of_the_project_are_read(name: str) -> None:
    config = load_config(Path(__file__).parents[2] / "recipes" / f"{name}.yaml")
    assert set(config.corpora) == {"wikipedia", "cc100", "oscar"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("  vocab_sise: 1", ", line 9: unknown key preprocess.vocab_sise; did you mean preprocess.vocab_size?"),
        ("  segmenter: {engin: mecab}", ", line 9: unknown key preprocess.segmenter.engin; did you mean preprocess.segmenter.engine?"),
        (
            "    we-b: {format: jsonl, path: x, repeat: 2}",
            ", line 9: unknown key preprocess.corpora.we-b.repeat; did you mean preprocess.corpora.we-b.repeats?",
        ),
        ("trainin: {seed: 1}", ", line 9: unknown key trainin.seed; did you mean training?"),
        ("  heldout_documents: many", ", line 9: preprocess.heldout_documents: Expected int. Got value: many."),
        ("  part_bytes: 2.5", ", line 9: preprocess.part_bytes: Expected int. Got value: 2.5."),
        (
            "    b: {format: html, path: x}",
            ", line 9: preprocess.corpora.b.format: Expected Literal['wikipedia', 'cc100', 'oscar', 'jsonl', 'wikiextractor', ",
        ),
        ("    b: {format: jsonl}", ": the following arguments are required: preprocess.corpora.b.path."),
        (
            "  segmenter: {engine: sudachi}",
            ", line 9: preprocess.segmenter.engine: Expected Literal['jumanpp', 'juman', 'mecab', 'none']. Got value: sudachi.",
        ),
        ("  bad_input_limit: some", ", line 9: preprocess.bad_input_limit: some is none of these: float, Literal['auto']."),
        ("  language: {ja: 0.5}", ", line 9: preprocess.language: {'ja': 0.5} is none of these: str, list[str]."),
        ("  language: [ja, 3]", ", line 9: preprocess.language: ['ja', 3] is none of these: str, list[str]."),
        ("  segmenter:", ": a section under preprocess has no keys; give it some or leave it out."),
    ],
    ids=lambda value: value.strip() if isinstance(value, str) and value[0] != "," else "",
)  # fmt: skip
def test_mistake_in_the_recipe_is_named_with_file_and_line(recipe: Path, lines: str, message: str) -> None:
    text = GOOD.replace("  vocab_size: 8000\n", f"{lines}\n" if lines.startswith("    ") else f"  vocab_size: 8000\n{lines}\n")
    line = text.splitlines().index(lines) + 1
    recipe.write_text(text)
    assert refused(recipe).startswith(f"{recipe}{message.replace('line 9', f'line {line}')}")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("8000", "2000000", "preprocess.vocab_size is 2000000; it must lie between 10 and 1048576."),
        ("8000", "9", "preprocess.vocab_size is 9; it must lie between 10 and 1048576."),
        ("8000", "8000\n  sequence_length: 127", "preprocess.sequence_length is 127; each length must lie between 128 and 8192."),
        ("8000", "8000\n  sequence_length: [512, 8193]", "preprocess.sequence_length is [512, 8193]; each length must lie between"),
        ("8000", "8000\n  sequence_length: [512, 128, 512]", "preprocess.sequence_length is [512, 128, 512]; 512 is there twice."),
        ("8000", "8000\n  sequence_length: []", "preprocess.sequence_length is an empty list; it must name a length"),
        ("8000", "8000\n  sequence_length:", "preprocess.sequence_length has no value; give it one or leave the line out."),
        ("8000", "", "preprocess.vocab_size has no value; give it one or leave the line out."),
        ("8000", "8000\n  character_coverage: 99", "preprocess.character_coverage is 99.0; it must lie between 0.9 and 1."),
        ("8000", "8000\n  heldout_documents: -1", "preprocess.heldout_documents is -1; it must lie between 0 and"),
        ("8000", "8000\n  shard_bytes: 0", "preprocess.shard_bytes is 0; it must lie between 1 and"),
        ("path: web.jsonl", "path: ' '", "preprocess.corpora.web.path is empty; it must name files."),
        *[
            ("8000", f"8000\n  segmenter: {{{key}: {value}}}", f"preprocess.segmenter.{key} is {shown}; it must lie between")
            for key, value, shown in (
                ("batch_sentences", "0", "0"), ("timeout_seconds", ".nan", "nan"), ("timeout_seconds", "1e30", "1e+30"),
                ("timeout_seconds", "0", "0.0"), ("memory_mib", "-1", "-1"),
            )
        ],
        ("repeats: 3", "repeats: 0", "preprocess.corpora.web.repeats is 0; it must be at least 1."),
        ("web:", "../web:", "preprocess.corpora.../web: a corpus's name may hold letters, digits, - and _"),
        ("web:", "valid-web:", "preprocess.corpora.valid-web: a corpus's name may"),
    ],
)  # fmt: skip
def test_value_out_of_range_is_named_with_its_range(recipe: Path, old: str, new: str, message: str) -> None:
    recipe.write_text(GOOD.replace(old, new))
    assert refused(recipe).startswith(message)


@pytest.mark.parametrize("value", ["1" + "0" * 400, '"a\\0b"', '"\\ud83d"', "/proc/self/mem", "/"])
@pytest.mark.parametrize("key", ["segmenter", "corpora", "character_coverage", "duplicates"])
def test_a_value_that_a_library_cannot_even_read_is_one_sentence(recipe: Path, key: str, value: str) -> None:
    # The parser opens a file where the value of a section is text.
    recipe.write_text(f"{GOOD}  {key}: {value}\n")
    assert refused(recipe)


@pytest.mark.parametrize("text", ["run: {dir: x}\n", "preprocess:\n  corpora:\n", "preprocess:\n  corpora: {}\n"])
def test_recipe_without_a_corpus_is_refused_with_both_remedies(recipe: Path, text: str) -> None:
    recipe.write_text(text)
    assert refused(recipe).startswith("preprocess.corpora names no corpus; name them in the recipe or give --corpora FOLDER")


@pytest.mark.parametrize(
    "content", [b"", b"- a list\n", b"only words\n", b"preprocess: [\n", b"preprocess:\n\tvocab_size: 3\n", b"\xff\xfe"]
)
def test_file_that_is_no_recipe_is_refused_with_its_name(recipe: Path, content: bytes) -> None:
    recipe.write_bytes(content)
    assert refused(recipe).startswith(f"{recipe}: ")


def test_missing_recipe_is_refused_with_its_name(tmp_path: Path) -> None:
    assert (
        refused(tmp_path / "none.yaml")
        == f"{tmp_path}/none.yaml: no such recipe. The ones that come with the project lie in {ROOT / 'recipes'}."
    )


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            ["--preprocess.vocab_sise", "5"],
            "command line: unknown key preprocess.vocab_sise; did you mean preprocess.vocab_size?",
        ),
        (["--dryrun"], "command line: unknown key dryrun"),
        (["extra"], "command line: unrecognized arguments: extra"),
    ],
)
def test_unknown_option_is_not_blamed_on_the_recipe(recipe: Path, option: list[str], message: str) -> None:
    assert refused(recipe, *option).startswith(message)


def put(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    return folder


def test_corpora_of_a_folder_take_the_place_of_the_recipes_and_keep_its_repeats(recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(
        "preprocess:\n  corpora:\n    wikipedia: {format: wikipedia, path: x, repeats: 10}\n"
        "    oscar: {format: oscar, path: x, repeats: 2}\n    other: {format: jsonl, path: x, repeats: 5}\n"
    )
    names = ["jawiki-20221020-pages-articles-multistream.xml.bz2", "cc100-ja.txt.xz"]
    folder = put(tmp_path / "folder", *names, "ja_meta_part_1.jsonl.gz", "ja_part_1.jsonl.zst")
    found = load_config(recipe, (), folder).corpora
    repeats = {name: corpus.repeats for name, corpus in found.items()}
    # OSCAR of two editions has two names of its own: they inherit by format. CC-100 is not in the recipe.
    assert repeats == {"wikipedia": 10, "cc100": 1, "oscar2201": 2, "oscar2301": 2}
    assert all(Path(corpus.path).parent == folder for corpus in found.values())


def test_folder_alone_is_enough(tmp_path: Path) -> None:
    config = load_config(None, (), put(tmp_path / "folder", "news.jsonl"))
    assert config.corpora == {"news": CorpusConfig("jsonl", f"{tmp_path}/folder/news.jsonl", 1)}
    assert dataclasses.replace(config, corpora={}) == PreprocessConfig()


def test_folder_without_a_corpus_is_refused(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no corpus in this folder"):
        load_config(recipe, (), put(tmp_path / "folder", "notes.md"))
    with pytest.raises(InputError, match="no such folder"):
        load_config(recipe, (), tmp_path / "none")


@pytest.mark.parametrize(("value", "shown"), [("true", "True"), ("[512.0]", "[512.0]"), ("[[512]]", "[[512]]"), ("long", "long")])
def test_a_row_length_that_is_no_whole_number_is_named_with_its_line(recipe: Path, value: str, shown: str) -> None:
    recipe.write_text(GOOD.replace("8000", f"8000\n  sequence_length: {value}"))
    line = next(n for n, text in enumerate(recipe.read_text().splitlines(), 1) if "sequence_length" in text)
    wanted = f"{recipe}, line {line}: preprocess.sequence_length: {shown} is none of these: int, list[int]."
    assert refused(recipe).startswith(wanted)


def test_row_lengths_keep_the_order_of_the_recipe(recipe: Path) -> None:
    for value, lengths in (("1024", (1024,)), ("[1024, 512, 8192]", (1024, 512, 8192))):
        recipe.write_text(GOOD.replace("8000", f"8000\n  sequence_length: {value}"))
        assert load_config(recipe).sequence_lengths == lengths
    overrides = ("--preprocess.sequence_length", "[128,256]")
    assert load_config(recipe, overrides).sequence_lengths == (128, 256)
