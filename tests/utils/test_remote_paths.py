"""Paths of object stores are refused with the command that brings the files."""

from pathlib import Path

import pytest

from jadeberta.errors import ConfigError
from jadeberta.utils.paths import expand_user
from jadeberta.utils.remote_paths import refuse_remote
from preprocess.load_config import load_config

COMMANDS = {
    "hf://datasets/HuggingFaceFW/fineweb-2/data/jpn_Jpan/train/*.parquet": (
        "hf download HuggingFaceFW/fineweb-2 --include 'data/jpn_Jpan/train/*.parquet' --repo-type dataset --local-dir DIR"
    ),
    "hf://datasets/a/b@refs/x.parquet": "hf download a/b --include x.parquet --repo-type dataset --revision refs --local-dir DIR",
    "hf://datasets/a/b": "hf download a/b --repo-type dataset --local-dir DIR",
    "https://huggingface.co/datasets/a/b/resolve/main/data/x.jsonl.gz?download=true": (
        "hf download a/b --include data/x.jsonl.gz --repo-type dataset --local-dir DIR"
    ),
    "https://huggingface.co/datasets/a/b/tree/v2/data": (
        "hf download a/b --include 'data/*' --repo-type dataset --revision v2 --local-dir DIR"
    ),
    "s3://bucket/web/": "aws s3 cp --recursive s3://bucket/web/ DIR",
    "s3://bucket/web/a.jsonl": "aws s3 cp s3://bucket/web/a.jsonl DIR",
    "s3://bucket/web/**/*.jsonl.zst": "aws s3 cp --recursive s3://bucket/web/ DIR --exclude '*' --include '*.jsonl.zst'",
    "S3A://bucket/x": "aws s3 cp --recursive s3://bucket/x DIR",
    "gs://bucket/a b/*.parquet": "gsutil -m cp -r 'gs://bucket/a b/*.parquet' DIR",
    "https://data.example.org/cc100/ja.txt.xz": "curl -fL -C - --create-dirs --output-dir DIR -O https://data.example.org/cc100/ja.txt.xz",
    "https://x.example/a;rm -rf ~": "curl -fL -C - --create-dirs --output-dir DIR -O 'https://x.example/a;rm -rf ~'",
}


@pytest.mark.parametrize("url", COMMANDS)
def test_a_remote_path_is_refused_with_its_command(url: str) -> None:
    with pytest.raises(ConfigError) as error:
        refuse_remote(url, "key")
    assert (
        str(error.value)
        == f"key {url}: only local files are read; bring the files first, by: {COMMANDS[url]} (then name them there)."
    )


@pytest.mark.parametrize("path", ["/a/b", "~/a", "a:b/c", "./s3:/x", "s3", "", "hf/x"])
def test_local_paths_pass(path: str) -> None:
    refuse_remote(path)


def test_other_stores_and_files_as_urls_are_told_what_to_do() -> None:
    with pytest.raises(ConfigError, match="with the tools of that store"):
        expand_user("abfs://container/x", "run.dir")
    with pytest.raises(ConfigError, match="write the path without file://, as /data/x"):
        expand_user("file:///data/x")


def test_a_recipe_with_a_remote_corpus_or_a_remote_folder_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("preprocess: {corpora: {web: {format: parquet, path: 's3://b/web/*.parquet'}}}")
    with pytest.raises(ConfigError, match=r"preprocess\.corpora\.web\.path s3://b/web/\*\.parquet: only local files are read"):
        load_config(recipe)
