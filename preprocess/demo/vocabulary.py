"""Words for the demo corpus: nouns, surnames and towns of JumanDIC, read at run time from the dictionary that pip installed.

Promises that every word is one word to the segmenter, and that the same dictionary gives the same list in the same order.
Knows no grammar: it says what a word is (topic and kind), not what can be said about it.
"""

import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import fugashi
import jumandic
import numpy as np

# MeCab's system dictionary: ten uint32 and the charset, a double array, tokens of 16 bytes, NUL-terminated features.
HEADER = struct.Struct("<10I32x")
TOKEN = np.dtype([("left", "<u2"), ("right", "<u2"), ("pos", "<u2"), ("cost", "<i2"), ("feature", "<u4"), ("compound", "<u4")])
# Entries collected automatically from the web have 自動獲得 where these have 代表表記 or 人名; they are too noisy for sentences.
ENTRY = re.compile("\0名詞,(普通名詞|サ変名詞|人名|地名),\\*,\\*,([^,\0]+),([^,\0]+),((?:代表表記|人名):[^\0]*)".encode())
# One spelling a word: all kanji, all katakana, or kanji with kana endings.
SPELLING = re.compile(r"[一-龥々]{2,}|[ァ-ヴー]{2,}|(?=.*[一-龥])[一-龥々ぁ-ん]{2,}")
# A demo is shown to people: nothing about death, crime, war, illness, gambling or the body's needs.
AVOID = re.compile(
    "[死殺尿便糞性姦淫奴屍葬墓癌毒爆妊娼裸痔乳陰盗賊犯罪囚獄刑戦兵軍艦弾銃砲武核敵血病痛障傷狂鬼魔禁脳炎菌虐恥悪霊襲賭凶暴喪弔棺遺垢愚汚震災妾害]"
    "|サリン|ポルノ|パチンコ|遊女|遊郭|花魁|愛人|人妻|黒人|白人|外人|ゲイ|盲人|ライフル|春本|原発|放射能|プルトニウム|心中|カジノ|競艇|競馬"
    "|馬券|ディスコ|ブラジャー|パンティー|トイレ|ヤンキー|孤児|側室|生き埋め|焼け跡|アスベスト|シンナー"
    "|ドーピング|タブー|スキャンダル|不祥事|津波|中朝|国々|裏金|談合|背任|着服"
    # Pronouns among the nouns would say something of nobody.
    "|彼女|自分|自身|彼我|我々|皆さん|諸君|当人|何者|余人|面々|他人事|両氏|諸氏|各氏"
)
# JumanDIC gives this cost to entries that its training text never used; below it are the words that people write.
UNSEEN_COST = {"普通名詞": 5308, "サ変名詞": 3417}
# What may stand around a word in the sentences; the segmenter must keep it whole in all of them.
CARRIERS = {
    "surname": ("、{}さんは", "と{}さんが"),
    "given": ("、佐藤{}は", "高橋{}が"),
    "town": ("、{}市の", "は{}市に"),
    "action": ("、{}を続けた", "は{}について", "の{}が必要だ"),
    "": ("、{}を見た", "の{}が", "は{}について", "「{}は"),
}
# ドメイン of JumanDIC -> topic; words of the domains left out (政治, 健康・医学) are not used.
TOPIC_OF_DOMAIN = {
    "料理・食事": "料理",
    "交通": "交通",
    "スポーツ": "スポーツ",
    "文化・芸術": "芸術",
    "ビジネス": "経済",
    "教育・学習": "教育",
    "科学・技術": "科学",
    "家庭・暮らし": "暮らし",
    "メディア": "報道",
    "レクリエーション": "余暇",
}
# カテゴリ of JumanDIC -> kind; the first that fits
KIND_OF_CATEGORY = (
    ("人工物-食べ物", "food"),
    ("動物-部位", ""),
    ("動物", "animal"),
    ("植物-部位", "nature"),
    ("植物", "plant"),
    ("人工物-衣類", "clothing"),
    ("人工物-乗り物", "vehicle"),
    ("人工物-金銭", "money"),
    ("人工物-その他", "tool"),
    ("組織・団体", "group"),
    ("場所-自然", "land"),
    ("場所-施設", "place"),
    ("自然物", "nature"),
    ("人", "person"),
    ("抽象物", "matter"),
)
# Words without ドメイン that make a topic by their カテゴリ.
TOPIC_OF_KIND = {"animal": "動物", "plant": "植物", "nature": "自然", "land": "自然", "food": "料理", "vehicle": "交通"}


@dataclass(frozen=True, slots=True)
class Word:
    """One dictionary word: `topic` is empty where the dictionary names none; `area` is a town's prefecture."""

    surface: str
    reading: str
    kind: str
    topic: str = ""
    area: str = ""


def _entries(dictionary: Path) -> list[tuple[int, str, str, str, str]]:
    """(cost, part of speech, lemma, reading, meaning) of the nouns that a person entered into the dictionary."""
    with open(dictionary, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
        _, _, _, _, _, _, double_array, tokens, features, _ = HEADER.unpack_from(data)
        table = np.frombuffer(data[HEADER.size + double_array :][:tokens], TOKEN)
        start = HEADER.size + double_array + tokens
        matches = [(m.start() + 1 - start, m.groups()) for m in ENTRY.finditer(data, start - 1, start + features)]
    order = np.argsort(table["feature"], kind="stable")
    offsets = np.array([offset for offset, _ in matches], dtype=np.uint32)
    costs = table["cost"][order[np.searchsorted(table["feature"], offsets, sorter=order)]]
    decoded = ([field.decode() for field in fields] for _, fields in matches)
    return [
        (int(cost), pos, lemma, reading, meaning) for cost, (pos, lemma, reading, meaning) in zip(costs, decoded, strict=True)
    ]


def _word(cost: int, pos: str, lemma: str, reading: str, meaning: str) -> Word | None:
    """The word that an entry stands for, or None where the demo has no use for it."""
    if not SPELLING.fullmatch(lemma) or AVOID.search(lemma):
        return None
    tags = dict(tag.split(":", 1) for tag in meaning.split() if ":" in tag)
    if pos == "人名":
        country, part, rank = (*tags["人名"].split(":"), "", "")[:3]
        kind = {"姓": "surname", "名": "given"}.get(part)
        return Word(lemma, reading, kind) if kind and country == "日本" and int(rank) <= 900 else None
    if pos == "地名":
        country, area, part = (*tags.get("地名", "").split(":"), "", "")[:3]
        return Word(lemma, reading, "town", area=area) if country == "日本" and part == "市" and area[-1] in "県府" else None
    if tags.get("代表表記", "").split("/")[0] != lemma:
        return None
    kind = next((kind for part, kind in KIND_OF_CATEGORY if part in tags.get("カテゴリ", "")), "")
    if pos == "サ変名詞":
        kind = "action" if kind == "matter" else ""
    domain = tags.get("ドメイン", "").split(";")[0]
    if domain and domain not in TOPIC_OF_DOMAIN:
        return None
    topic = TOPIC_OF_DOMAIN.get(domain) or TOPIC_OF_KIND.get(kind, "")
    # A rare concrete noun is still a thing one can see and carry; a rare abstract one makes odd sentences.
    if not kind or ((kind in ("matter", "action", "person", "group") or not topic) and cost >= UNSEEN_COST[pos]):
        return None
    return Word(lemma, reading, kind, topic)


def _is_whole(tagger: fugashi.GenericTagger, word: Word) -> bool:
    carriers = CARRIERS.get(word.kind, CARRIERS[""])
    return all(word.surface in [node.surface for node in tagger(carrier.format(word.surface))] for carrier in carriers)


def load_words() -> list[Word]:
    """All words of the demo, the more common ones of the dictionary first; a spelling appears once."""
    entries = sorted(_entries(Path(jumandic.DICDIR) / "sys.dic"))
    words: dict[str, Word] = {}
    for entry in entries:
        word = _word(*entry)
        if word is not None:
            words.setdefault(word.surface, word)
    tagger = fugashi.GenericTagger(jumandic.MECAB_ARGS)
    return [word for word in words.values() if _is_whole(tagger, word)]
