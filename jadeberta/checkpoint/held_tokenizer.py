"""The tokenizer of a run: read and checked once at the start, and held, because the files beside the shards may change while it trains.

Every checkpoint gets the bytes that were checked. `export` compares the files with each other once more.
"""

import hashlib
from pathlib import Path

from jadeberta.errors import CheckpointError, ConfigError, JadebertaError, ShardError
from jadeberta.shards import ShardReader
from jadeberta.shards.tokenizer_format import ALL_TOKENIZER_FILES, FAST_FILE, MODEL_FILE, TOKENIZER_FILES, main_file
from jadeberta.utils.files import file_sha256

SENTENCES = (
    "京都 大学 で 自然 言語 処理 を 研究 する 。",
    "東京都 は 、 日本 の 首都 である 。",
    "2024 年 に 1,234 人 が New York を 訪れた 。",
    "コンピューター と カタカナ の ヴァイオリン",
    "ひらがな だけ の ぶん も ある 。",
    "未知 の 字 𠮷野 と 鱧鱸 ☃",
    "分け ないでそのまま書いた文です。",
    "a b c ab abc",
)
"""Normalised text on which both forms of a tokenizer must agree: known and unknown characters, words, digits, Latin letters."""


def read_tokenizer(shards: ShardReader) -> dict[str, bytes]:
    """Reads the tokenizer files beside the shards and checks them; returns the content of those that are there, by name.

    The sentencepiece model must be the one of `index.json`, and so must the other files where the index names them. Older indexes do
    not: then `tokenizer.json` must have the pieces of the model, each in its place. Of a given tokenizer the index names every file.

    Raises:
        ShardError: there is no model, or a file is not the one that the shards were made with; names both.
    """
    directory, index = shards.directory / "tokenizer", shards.index
    held = {}
    given = main_file(index.tokenizer_sha256, index.tokenizer_files) in index.tokenizer_files
    for name in index.tokenizer_files if given else TOKENIZER_FILES:
        try:
            held[name] = (directory / name).read_bytes()
        except FileNotFoundError:
            continue
        except OSError as e:
            raise ShardError(f"{directory / name}: cannot be read ({e.strerror}). Make it readable, or put it back.") from e
    for name, expected in (
        {**index.tokenizer_files} if given else {MODEL_FILE: index.tokenizer_sha256, **index.tokenizer_files}
    ).items():
        if name not in held:
            raise ShardError(
                f"{directory / name}: missing; a checkpoint carries its tokenizer. Copy the whole directory that 'preprocess' wrote."
            )
        if (found := hashlib.sha256(held[name]).hexdigest()) != expected:
            raise ShardError(
                f"{directory / name}: sha256 {found[:12]}… but {shards.index_path} was made with {expected[:12]}…. "
                "Run 'python -m preprocess pack' again, or put the tokenizer back."
            )
    if FAST_FILE in held and MODEL_FILE in held and FAST_FILE not in index.tokenizer_files:
        compare_pieces(held[MODEL_FILE], held[FAST_FILE], directory / FAST_FILE, ShardError)
    return held


def compare_pieces(model: bytes, fast: bytes, path: Path, error: type[JadebertaError]) -> None:
    """Raises an error where `tokenizer.json` has other pieces than the sentencepiece model, or has them in other places.

    Args:
        model: content of `spm.model`.
        fast: content of `tokenizer.json`.
        path: of `tokenizer.json`, for the message.
        error: class of the error.
    """
    import sentencepiece
    import tokenizers

    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        pieces = {processor.id_to_piece(i): i for i in range(len(processor))}
        found = tokenizers.Tokenizer.from_str(fast.decode()).get_vocab()
    except Exception as e:  # both libraries raise classes of their own, `tokenizers` plain Exception
        raise error(f"{path}: not a tokenizer of the {MODEL_FILE} beside it ({str(e).strip()}). Put the tokenizer back.") from e
    if found != pieces:
        piece = min(
            (p for p in found.keys() | pieces.keys() if found.get(p) != pieces.get(p)), key=lambda p: (pieces.get(p, 0), p)
        )
        raise error(
            f"{path}: piece '{piece}' has number {found.get(piece, 'none')} there and {pieces.get(piece, 'none')} in {MODEL_FILE}. "
            "They must be of one tokenizer: put the right files back."
        )


def refuse_other_tokenizer(directory: Path, expected: str) -> str:
    """Checks a tokenizer that is not the published recipe's, in a directory that transformers loads; returns the text of its mask token.

    Args:
        directory: with all tokenizer files and the model's `config.json`.
        expected: sha256 of the file that gives the ids.

    Raises:
        CheckpointError: no file has this hash, the tokenizer cannot be opened, or AutoTokenizer gives other ids.
    """
    from preprocess.tokenization.encoders import open_encoder, read_tokenizer
    from preprocess.tokenization.encoders.auto_tokenizer import refuse_other_ids

    remedy = "Export a checkpoint that holds the right one; nothing was exported."
    names = [name for name in ALL_TOKENIZER_FILES if (directory / name).is_file()]
    main = next((name for name in names if file_sha256(directory / name) == expected), None)
    if main is None:
        raise CheckpointError(
            f"{directory}: none of its tokenizer's files ({', '.join(names)}) has the sha256 {expected[:12]}… of the training. {remedy}"
        )
    try:
        encoder = open_encoder(read_tokenizer(directory, main))
    except ConfigError as e:
        raise CheckpointError(f"{e} Nothing was exported.") from e
    refuse_other_ids(directory, encoder, remedy, CheckpointError)
    return str(encoder.name_of(encoder.special.mask))


def refuse_mixed_tokenizer(directory: Path, expected: str) -> None:
    """Checks the tokenizer of a directory that transformers loads, by its pieces and by the numbers that it gives sentences.

    Args:
        directory: with all tokenizer files.
        expected: sha256 of the sentencepiece model that the checkpoint was trained with.

    Raises:
        CheckpointError: the model is another one, or AutoTokenizer gives other numbers than sentencepiece.
    """
    import sentencepiece
    import transformers

    model, remedy = (directory / MODEL_FILE).read_bytes(), "Export a checkpoint that holds the right one; nothing was exported."
    if (found := hashlib.sha256(model).hexdigest()) != expected:
        raise CheckpointError(
            f"{directory / MODEL_FILE}: sha256 {found[:12]}…, but the checkpoint was trained with {expected[:12]}…. {remedy}"
        )
    compare_pieces(model, (directory / FAST_FILE).read_bytes(), directory / FAST_FILE, CheckpointError)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    for sentence in SENTENCES:
        ids = tokenizer(sentence, add_special_tokens=False)["input_ids"]
        if ids != (right := processor.encode(sentence)):
            raise CheckpointError(
                f"{directory}: AutoTokenizer gives '{sentence}' the numbers {ids}, {MODEL_FILE} {right}; the tokenizer's files do not "
                f"belong together. {remedy}"
            )
